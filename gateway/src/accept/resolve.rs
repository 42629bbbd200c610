//! Looks up what a notification names: category, template, recipients; inline addresses become recipients.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use peal_common::address;
use peal_common::category::Category;
use peal_common::channel::{Channel, ChannelSet, Priority};
use peal_common::envelope::{ContactRef, ResolvedTarget, Text};
use peal_common::fallback::Fallback;
use peal_common::id::{AppId, RecipientId, Region};
use peal_common::notification::{Notification, Target};
use peal_common::problem::FieldError;
use peal_common::recipient::{Contact, RecipientBody, write_body};
use peal_common::state::{Kind, RecordKey};
use peal_common::template::{Content, Template};
use peal_nats::catalog::{CurrentTemplate, INLINE_PREFIX};
use peal_nats::state::WriteError;

use super::{Inner, Refusal};

/// What was found.
pub(super) struct Resolved {
    pub(super) targets: Vec<ResolvedTarget>,
    pub(super) text: Text,
    pub(super) default_priority: Priority,
    pub(super) fallback: Option<Fallback>,
    pub(super) state_seq: u64,
    /// Whether nothing of it may leave this region.
    pub(super) pinned: bool,
}

/// The private networks that webhooks may reach.
#[derive(Debug, Clone, Default)]
pub struct Networks(Arc<[IpNet]>);

impl Networks {
    /// Parses networks such as `10.1.0.0/16`.
    ///
    /// # Errors
    /// The first text that is no network.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let networks: Result<Vec<IpNet>, String> =
            texts.iter().map(|text| text.parse().map_err(|_| text.clone())).collect();
        Ok(Networks(networks?.into()))
    }

    /// Whether a webhook may be registered for this URL: its host is a name, a public address, or an allowed one. What
    /// a name resolves to is looked at when it is called.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        let Ok(url) = address::webhook(url) else { return false };
        let Some(ip) = address::literal_target(&url) else { return true };
        let inner = match ip {
            IpAddr::V6(v6) => address::embedded_v4(v6).map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        address::is_public(ip)
            || self.0.iter().any(|network| network.contains(&inner) || network.contains(&ip))
    }
}

/// Looks everything up and takes over what the notification says. Every mistake is reported at once.
pub(super) async fn resolve(
    inner: &Inner,
    app: &AppId,
    notification: &mut Notification,
) -> Result<Resolved, Refusal> {
    let mut state_seq = inner.catalog.mirror().position();
    let mut errors = Vec::new();
    let category = inner.catalog.category(app, &notification.category)?;
    if category.is_none() {
        errors.push(FieldError::new(
            "category",
            "unknown_category",
            "create it first: PUT /v1/categories/{id}",
        ));
    }
    if let Some(region) = &notification.pinned_to {
        errors.extend(wrong_region(region, &inner.connection.region));
    }
    let mut pinned = is_pinned(inner, app, notification)?;
    let said = said(inner, app, notification, &mut errors)?;
    let mut targets = Vec::with_capacity(notification.to.len());
    for (index, target) in notification.to.iter().enumerate() {
        let field = || format!("to[{index}].{}", target.field());
        let found = match target.inline() {
            Some((channel, address)) => {
                if channel == Channel::Webhook && !inner.rules.networks.allow(address) {
                    let error = address::AddressError::PrivateTarget;
                    errors.push(FieldError::new(field(), error.code(), error.to_string()));
                    continue;
                }
                let allowed = notification
                    .channels
                    .as_ref()
                    .is_none_or(|choices| choices.iter().any(|c| c.covers(channel)));
                if !allowed || !said.has(channel) {
                    errors.push(no_usable_channel(field()));
                    continue;
                }
                if !errors.is_empty() {
                    continue;
                }
                // On the heap, or the future of every notification would have room for it.
                let (recipient, written) = Box::pin(inline(inner, app, channel, address, pinned)).await?;
                pinned = pinned || inner.catalog.reach(app, &recipient)?.is_some_and(|reach| reach.pinned);
                state_seq = state_seq.max(written);
                let index = inner.catalog.blind_index(app, channel, address);
                ResolvedTarget { recipient, only: Some(ContactRef { channel, index }) }
            }
            None => {
                let Target::Recipient(id) = target else { continue };
                let reach = match inner.catalog.reach(app, id)? {
                    Some(reach) => reach,
                    None => {
                        errors.push(FieldError::new(
                            field(),
                            "unknown_recipient",
                            "create it first: PUT /v1/recipients/{id}",
                        ));
                        continue;
                    }
                };
                pinned |= reach.pinned;
                if !is_usable(notification, category.as_deref(), reach.channels, &said) {
                    errors.push(no_usable_channel(field()));
                    continue;
                }
                ResolvedTarget { recipient: id.clone(), only: None }
            }
        };
        if !targets.contains(&found) {
            targets.push(found);
        }
    }
    let text = match (said, notification.template.take()) {
        (Said::Content(content), _) => Some(Text::Content(content)),
        (Said::Template(current), Some(id)) => {
            let data = std::mem::take(&mut notification.data);
            Some(Text::Template { id, version: current.version, data })
        }
        _ => None,
    };
    match (errors.is_empty(), category, text) {
        (true, Some(category), Some(text)) => {
            let (default_priority, fallback) = (category.default_priority(), category.fallback);
            Ok(Resolved { targets, text, default_priority, fallback, state_seq, pinned })
        }
        _ => Err(Refusal::Invalid(errors)),
    }
}

/// A mistake unless `pinned_to` names this region: whatever is pinned elsewhere must not even be written here.
pub fn wrong_region(pinned_to: &Region, here: &Region) -> Option<FieldError> {
    let detail = format!("this is a gateway of {here}: hand it to one of {pinned_to}");
    (pinned_to != here).then(|| FieldError::new("pinned_to", "wrong_region", detail))
}

/// Whether a notification is pinned before its inline addresses are looked at: an address that it names for the first
/// time then is, too.
fn is_pinned(inner: &Inner, app: &AppId, notification: &Notification) -> Result<bool, Refusal> {
    if inner.rules.pinned || notification.pinned_to.is_some() {
        return Ok(true);
    }
    // It only matters to an address beside others.
    if notification.to.len() < 2 || notification.to.iter().all(|target| target.inline().is_none()) {
        return Ok(false);
    }
    for target in &notification.to {
        let recipient = match (target, target.inline()) {
            (Target::Recipient(id), _) => Some(id.clone()),
            (_, Some((channel, address))) => inner.catalog.recipient_with_address(app, channel, address)?,
            _ => None,
        };
        if let Some(id) = recipient
            && inner.catalog.reach(app, &id)?.is_some_and(|reach| reach.pinned)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn no_usable_channel(field: String) -> FieldError {
    FieldError::new(
        field,
        "no_usable_channel",
        "none of the channels to be used has both a contact of this target and a text of this notification",
    )
}

/// What a notification says, as far as it is known.
enum Said {
    Content(Content),
    Template(CurrentTemplate),
    Unknown,
}

impl Said {
    /// Whether it says something on a channel.
    fn has(&self, channel: Channel) -> bool {
        match self {
            Said::Content(content) => content.has_body(channel),
            Said::Template(current) => has_some_body(&current.template, channel),
            Said::Unknown => true,
        }
    }
}

fn said(
    inner: &Inner,
    app: &AppId,
    notification: &mut Notification,
    errors: &mut Vec<FieldError>,
) -> Result<Said, Refusal> {
    if let Some(content) = notification.content.take() {
        return Ok(Said::Content(content));
    }
    let Some(id) = &notification.template else { return Ok(Said::Unknown) };
    let Some(current) = inner.catalog.template(app, id)? else {
        errors.push(FieldError::new(
            "template",
            "unknown_template",
            "create it first: PUT /v1/templates/{id}",
        ));
        return Ok(Said::Unknown);
    };
    errors.extend(current.template.check_data(&notification.data).err().into_iter().flatten());
    Ok(Said::Template(current))
}

/// Whether a template has a body for a channel in any locale: which one is used is known per recipient only.
fn has_some_body(template: &Template, channel: Channel) -> bool {
    template.has_body(channel, None)
        || template.locales.keys().any(|locale| template.has_body(channel, Some(locale)))
}

fn is_usable(
    notification: &Notification,
    category: Option<&Category>,
    reach: ChannelSet,
    said: &Said,
) -> bool {
    let wanted = notification.channels.as_deref().or(category.map(|category| category.channels.as_slice()));
    reach.iter().any(|channel| {
        let chosen =
            wanted.is_none_or(|choices| choices.is_empty() || choices.iter().any(|c| c.covers(channel)));
        chosen && said.has(channel)
    })
}

/// The recipient behind an inline address: one who has registered it, or one that stands for just this address. The
/// second value is the position in the state stream that includes it.
async fn inline(
    inner: &Inner,
    app: &AppId,
    channel: Channel,
    address: &str,
    pinned: bool,
) -> Result<(RecipientId, u64), Refusal> {
    if let Some(known) = inner.catalog.recipient_with_address(app, channel, address)? {
        return Ok((known, 0));
    }
    let index = inner.catalog.blind_index(app, channel, address);
    let Ok(id) = format!("{INLINE_PREFIX}{channel}:{index}").parse::<RecipientId>() else {
        return Err(Refusal::Unavailable { reason: "the address cannot be named", source: None });
    };
    let kind = if pinned { Kind::PinnedRecipient } else { Kind::Recipient };
    let key = RecordKey::new(kind, app, id.as_str());
    let body = RecipientBody {
        contacts: vec![Contact::at(channel, address.to_owned())],
        pinned_to: pinned.then(|| inner.connection.region.clone()),
        ..RecipientBody::default()
    };
    let sealer = inner.catalog.sealer();
    let written = inner
        .writer
        .update(&key, |record, stamp| {
            if record.exists() {
                return Ok(());
            }
            write_body(record, &key, app, &body, stamp, sealer, &mut rand::rng()).map_err(InlineError::Seal)
        })
        .await;
    match written {
        Ok(written) => Ok((id, written.sequence)),
        Err(InlineError::Write(error)) => Err(error.into()),
        Err(InlineError::Seal(error)) => Err(super::unavailable("the address cannot be sealed", error)),
    }
}

enum InlineError {
    Write(WriteError),
    Seal(peal_common::seal::SealError),
}

impl From<WriteError> for InlineError {
    fn from(error: WriteError) -> Self {
        InlineError::Write(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_webhooks_are_refused_unless_their_network_is_allowed() {
        let none = Networks::default();
        let some = Networks::parse(&["127.0.0.0/8".into(), "10.0.0.0/8".into()]).unwrap();
        for url in
            ["http://127.1/x", "http://2130706433/", "http://[::ffff:10.0.0.1]/", "http://localhost:1/"]
        {
            assert!(!none.allow(url), "{url}");
            assert!(some.allow(url), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://[::1]/", "http://192.168.1.1/"] {
            assert!(!some.allow(url), "{url}");
        }
        assert!(none.allow("https://example.com/hook"));
        assert_eq!(Networks::parse(&["10.0.0.0".into()]).unwrap_err(), "10.0.0.0");
    }
}
