//! One attempt: the decision at the last moment, the text, and the call.

use std::sync::Arc;

use jiff::Timestamp;
use peal_common::category::{Category, Class};
use peal_common::channel::Channel;
use peal_common::decide::{self, Reason};
use peal_common::envelope::{Text, Work};
use peal_common::event::EventType;
use peal_common::outcome::Outcome;
use peal_common::recipient::{Contact, Recipient};
use peal_common::template::{RenderError, Rendered};
use peal_common::unsubscribe::Unsubscribe;
use peal_nats::catalog::{CatalogError, FoundRecipient};
use peal_nats::pull::Job;
use tokio::time::Instant;

use super::intents::{self, OpenCall};
use crate::channels::{
    Account, Admitted, CIRCUIT_OPEN, Called, Found, Message, PROVIDER_PAUSED, Providers, Sought, TRY_NEXT,
};
use crate::context::{Context, SayError};

/// What is to be done with a delivery now.
pub(super) enum Decision {
    /// Send it.
    Send(Box<Ready>),
    /// Do not send it, ever.
    End(EventType, String),
    /// Not before this time.
    Hold(Timestamp),
}

/// A delivery that may be sent.
pub(super) struct Ready {
    pub(super) recipient: Recipient,
    contact: Contact,
    rendered: Rendered,
    /// The class of its category.
    pub(super) class: Class,
    /// Where the recipient can stop the category.
    unsubscribe: Option<String>,
}

/// Looks at everything again that may have changed since the delivery was planned. `found` is its recipient as it was then,
/// where that is known.
pub(super) fn decide(
    context: &Context,
    work: &Work,
    found: Option<&FoundRecipient>,
) -> Result<Decision, CatalogError> {
    let end = |kind, reason: Reason| Ok(Decision::End(kind, reason.as_str().to_owned()));
    let notification = &work.notification;
    let now = context.clock.now();
    if let Some(reason) = context.stopped(notification)? {
        return Ok(Decision::End(EventType::Cancelled, reason.to_owned()));
    }
    if notification.expires_at <= now {
        return Ok(Decision::End(EventType::Expired, "expired".to_owned()));
    }
    let Some(rules) = context.catalog.category(&notification.app, &notification.category)? else {
        return end(EventType::Failed, Reason::UnknownCategory);
    };
    let recipient = match found.filter(|found| context.catalog.is_current(found)) {
        Some(found) => context.catalog.open(found)?,
        None => context.catalog.recipient(&notification.app, &work.recipient)?,
    };
    let Some(recipient) = recipient else {
        return Ok(Decision::End(EventType::Erased, "recipient_erased".to_owned()));
    };
    let contact = match work.channel {
        Channel::Inbox => Contact::at(Channel::Inbox, String::new()),
        _ => match recipient.contact(&work.contact) {
            Some(contact) => contact.clone(),
            None => return end(EventType::Suppressed, Reason::ContactRemoved),
        },
    };
    if let Err(reason) =
        decide::permitted(&recipient.preferences, &notification.category, &rules, work.channel)
    {
        return end(EventType::Suppressed, reason);
    }
    if work.channel != Channel::Inbox
        && context.is_suppressed(notification, work.channel, &work.contact, recipient.registered_ms)?
    {
        return end(EventType::Suppressed, Reason::AddressSuppressed);
    }
    let zone = recipient.body.time_zone.as_deref();
    // The inbox makes no noise: an item may arrive at any hour.
    if work.channel != Channel::Inbox
        && let Some(until) =
            decide::quiet_until(&recipient.preferences, zone, &rules, notification.priority, now)
    {
        return Ok(Decision::Hold(until));
    }
    match render(context, work, recipient.body.locale.as_deref())? {
        Ok(rendered) => {
            let unsubscribe = unsubscribe(context, work, &rules);
            let class = rules.class;
            Ok(Decision::Send(Box::new(Ready { recipient, contact, rendered, class, unsubscribe })))
        }
        Err(error) => Ok(Decision::End(EventType::Failed, format!("cannot_render: {error}"))),
    }
}

/// The link that bulk e-mail has to have. There is none where it would change nothing, or where nobody would answer it.
fn unsubscribe(context: &Context, work: &Work, rules: &Category) -> Option<String> {
    if work.channel != Channel::Email || rules.class != Class::Marketing || rules.mandatory {
        return None;
    }
    let link = Unsubscribe {
        app: work.notification.app.clone(),
        recipient: work.recipient.clone(),
        category: work.notification.category.clone(),
        channel: work.channel,
    };
    // What is sealed is far too short to be refused.
    link.link(context.public_base.as_deref()?, context.catalog.sealer()).ok()
}

fn render(
    context: &Context,
    work: &Work,
    locale: Option<&str>,
) -> Result<Result<Rendered, RenderError>, CatalogError> {
    let notification = &work.notification;
    Ok(match &notification.text {
        Text::Content(content) => {
            content.render(work.channel).ok_or(RenderError::NoBody { channel: work.channel })
        }
        Text::Template { id, version, data } => {
            match context.catalog.template_version(&notification.app, id, *version)? {
                Some(template) => template.render(work.channel, locale, data),
                None => Err(RenderError::NoBody { channel: work.channel }),
            }
        }
    })
}

/// What came of an attempt, and of whom.
pub(super) struct Attempted {
    pub(super) outcome: Outcome,
    pub(super) provider: Option<Arc<str>>,
}

/// What decides which accounts take a delivery.
pub(super) struct Way<'a> {
    work: &'a Work,
    class: Class,
    address: Option<String>,
}

impl<'a> Way<'a> {
    /// Looks up what the accounts' rules ask for.
    pub(super) fn of(context: &Context, providers: &Providers, work: &'a Work) -> Result<Self, CatalogError> {
        let notification = &work.notification;
        let rules = context.catalog.category(&notification.app, &notification.category)?;
        // Whoever has no category any more is not sent.
        let class = rules.map_or(Class::Marketing, |rules| rules.class);
        let recipient = match providers.tell_countries_apart(work.channel) {
            true => context.catalog.recipient(&notification.app, &work.recipient)?,
            false => None,
        };
        let address = recipient.and_then(|recipient| recipient.contact(&work.contact)?.address.clone());
        Ok(Way { work, class, address })
    }

    /// Whether whoever may have been called can be asked for it. `account` is who was, where that is known.
    pub(super) fn is_searchable(&self, providers: &Providers, account: Option<&str>) -> bool {
        self.called(providers, account).into_iter().any(Account::is_searchable)
    }

    /// Who may have been called. Nobody, when the account that was called is not there any more.
    fn called<'p>(&self, providers: &'p Providers, account: Option<&str>) -> Vec<&'p Account> {
        match account {
            Some(name) => providers.named(self.work.channel, name).into_iter().collect(),
            None => providers.taking(self.work.channel, &self.sought()).collect(),
        }
    }

    /// The class of its category.
    pub(super) const fn class(&self) -> Class {
        self.class
    }

    fn sought(&self) -> Sought<'_> {
        Sought { app: &self.work.notification.app, class: self.class, address: self.address.as_deref() }
    }

    /// The account that it leads to in the first place.
    pub(super) fn provider(&self, providers: &Providers) -> Option<Arc<str>> {
        providers.first(self.work.channel, &self.sought()).map(|account| Arc::clone(account.name()))
    }

    /// Waits until an account may be called. `Err` is what comes of it when none may.
    pub(super) async fn admit<'p>(&self, providers: &'p Providers) -> Result<Admitted<'p>, Attempted> {
        providers.admit(self.work.channel, &self.sought()).await.map_err(|opened| {
            let outcome = match opened {
                Some(opened) => opened.held_back(),
                None => Outcome::Unavailable { reason: Reason::NoProvider.as_str().to_owned(), after: None },
            };
            Attempted { outcome, provider: self.provider(providers) }
        })
    }
}

/// The intent that stands in the log for a call that must not be made twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    /// Until when another account may be called, if the one before did certainly not take the message.
    latest: Instant,
    is_second: bool,
}

/// Makes the intent to call an account durable. See [`intents::declare`].
pub(super) async fn declare(
    context: &Context,
    work: &Work,
    admitted: &Admitted<'_>,
    is_second: bool,
) -> Result<Declared, SayError> {
    let latest = Instant::now() + TRY_NEXT;
    intents::declare(context, work, admitted.account().name(), is_second).await?;
    Ok(Declared { latest, is_second })
}

/// Calls the account, and when that did certainly not take the message, the channel's next ones. Where the call was `declared`
/// there must be time for that, and the intent names the next one before it is called.
pub(super) async fn send(
    context: &Context,
    job: &Job,
    way: &Way<'_>,
    ready: &Ready,
    providers: &Providers,
    mut admitted: Admitted<'_>,
    declared: Option<Declared>,
) -> Attempted {
    let work = way.work;
    let message = message(context, work, ready);
    loop {
        let Called { account, mut outcome, unclear } = admitted.send(&message, &context.clock).await;
        // Another one knows nothing of what this one may have taken.
        let may_be_there = unclear.is_some();
        if let Some(reason) = unclear.filter(|_| declared.is_some()) {
            outcome = Outcome::Ambiguous { reason };
        }
        crate::metrics::attempt(work.channel, account.name(), &outcome);
        if !may_be_there
            && passes_on(&outcome)
            && declared.is_none_or(|declared| Instant::now() < declared.latest)
            && let Some(next) = providers.admit_after(work.channel, &way.sought(), account).await
            && may_call(context, job, work, &next, declared).await
        {
            admitted = next;
            continue;
        }
        return Attempted { outcome, provider: Some(Arc::clone(account.name())) };
    }
}

/// Whether the next account may be called: not while the intent can't name it, or somebody else may have found that.
async fn may_call(
    context: &Context,
    job: &Job,
    work: &Work,
    next: &Admitted<'_>,
    declared: Option<Declared>,
) -> bool {
    let Some(Declared { is_second, .. }) = declared else { return true };
    match intents::declare(context, work, next.account().name(), is_second).await {
        Ok(()) => job.is_ours(),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "no other account is tried now");
            false
        }
    }
}

/// Whether an account failed, so that the next one is tried. Its own limits are no failure: the others have theirs.
fn passes_on(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unavailable { .. } | Outcome::Retry { .. } => true,
        Outcome::HeldBack { reason, .. } => reason.starts_with(CIRCUIT_OPEN) || reason == PROVIDER_PAUSED,
        _ => false,
    }
}

/// Asks the accounts that may have been called whether they took a delivery, and which did.
///
/// # Errors
/// The outcome of the question, when one of them can't be asked now.
pub(super) async fn find(
    context: &Context,
    way: &Way<'_>,
    ready: &Ready,
    providers: &Providers,
    call: &OpenCall,
) -> Result<(Found, Option<Arc<str>>), Outcome> {
    let message = message(context, way.work, ready);
    let claim = |id: &str| context.outcomes.claim(id, &way.work.delivery);
    let mut all = None;
    for account in way.called(providers, call.account.as_deref()) {
        match account.find(&message, call.time, &claim).await? {
            taken @ Found::Taken(_) => return Ok((taken, Some(Arc::clone(account.name())))),
            Found::NotTaken => all = all.or(Some(Found::NotTaken)),
            Found::Unknown => all = Some(Found::Unknown),
        }
    }
    Ok((all.unwrap_or(Found::Unknown), None))
}

/// What an account is asked to deliver.
fn message<'a>(context: &'a Context, work: &'a Work, ready: &'a Ready) -> Message<'a> {
    let notification = &work.notification;
    Message {
        region: &context.connection.region,
        app: &notification.app,
        notification: &notification.id,
        delivery: &work.delivery,
        category: &notification.category,
        class: ready.class,
        priority: notification.priority,
        recipient: &work.recipient,
        contact: &ready.contact,
        data_keys: &ready.recipient.data_keys,
        rendered: &ready.rendered,
        attachments: &notification.attachments,
        accepted_at: notification.accepted_at,
        expires_at: notification.expires_at,
        attempt: work.attempts.saturating_add(1),
        collapse_key: notification.collapse_key.as_deref(),
        unsubscribe: ready.unsubscribe.as_deref(),
        metadata: &notification.metadata,
    }
}
