//! The rules: who gets a notification, on which channel, and when. Pure functions, asked twice: when deliveries are
//! planned, and again just before each provider call.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};
use serde::{Deserialize, Serialize};

use crate::category::{Category, Class};
use crate::channel::{Channel, ChannelChoice, Priority};
use crate::envelope::ContactRef;
use crate::id::CategoryId;
use crate::preferences::{Preferences, QuietHours};
use crate::recipient::Outline;

/// Why a channel was not used. The name is a stable word in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The recipient refused the category.
    CategoryOptOut,
    /// The recipient refused the channel, for this category or for all.
    ChannelOptOut,
    /// The recipient refused marketing.
    MarketingOptOut,
    /// The recipient has no contact on any channel that may be used.
    NoUsableChannel,
    /// The contact was removed after the delivery was planned.
    ContactRemoved,
    /// Nothing is sent to the recipient's addresses on the channel any more.
    AddressSuppressed,
    /// The notification has no text for the channel.
    NoText,
    /// Nobody is set up to send on the channel.
    NoProvider,
    /// The recipient doesn't exist.
    UnknownRecipient,
    /// The category doesn't exist any more.
    UnknownCategory,
}

impl Reason {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::CategoryOptOut => "category_opt_out",
            Reason::ChannelOptOut => "channel_opt_out",
            Reason::MarketingOptOut => "marketing_opt_out",
            Reason::NoUsableChannel => "no_usable_channel",
            Reason::ContactRemoved => "contact_removed",
            Reason::AddressSuppressed => "address_suppressed",
            Reason::NoText => "no_text",
            Reason::NoProvider => "no_provider",
            Reason::UnknownRecipient => "unknown_recipient",
            Reason::UnknownCategory => "unknown_category",
        }
    }
}

/// Whether a message that may have been sent is sent again. A mail goes out under the same Message-ID, a push, a webhook
/// and an item of an inbox are recognised by their ids; an alert is rather sent twice than never, an advertisement, and
/// whatever costs money, rather never than twice.
#[must_use]
pub const fn may_repeat(channel: Channel, class: Class) -> bool {
    match channel {
        Channel::Apns
        | Channel::Fcm
        | Channel::Webpush
        | Channel::Webhook
        | Channel::Inbox
        | Channel::Email => true,
        Channel::Telegram => !matches!(class, Class::Marketing),
        Channel::Sms | Channel::Alimtalk => false,
    }
}

/// Whether the recipient wants this category on this channel. All rules that match must allow; on each axis the most
/// specific one speaks: a category's own switch before the one for marketing, a channel within a category before the
/// channel as such, and a channel before `push`. Mandatory categories can't be refused.
///
/// # Errors
/// The [`Reason`] when it is not wanted.
pub fn permitted(
    preferences: &Preferences,
    category: &CategoryId,
    rules: &Category,
    channel: Channel,
) -> Result<(), Reason> {
    if rules.mandatory {
        return Ok(());
    }
    let own = preferences.categories.get(category);
    match own.and_then(|own| own.enabled) {
        Some(false) => return Err(Reason::CategoryOptOut),
        None if rules.class == Class::Marketing && preferences.marketing == Some(false) => {
            return Err(Reason::MarketingOptOut);
        }
        _ => {}
    }
    let specific = own.and_then(|own| switch(&own.channels, channel));
    let general = || switch(&preferences.channels, channel);
    if specific.or_else(general) == Some(false) { Err(Reason::ChannelOptOut) } else { Ok(()) }
}

fn switch(switches: &std::collections::BTreeMap<ChannelChoice, bool>, channel: Channel) -> Option<bool> {
    let exact = switches.iter().find(|(choice, _)| choice.channels() == [channel]);
    let broad = || switches.iter().find(|(choice, _)| choice.covers(channel));
    exact.or_else(broad).map(|(_, allowed)| *allowed)
}

/// When a message may go out that came in quiet hours: their end. `None` when it may go now.
#[must_use]
pub fn quiet_until(
    preferences: &Preferences,
    time_zone: Option<&str>,
    rules: &Category,
    priority: Priority,
    now: Timestamp,
) -> Option<Timestamp> {
    let hours = preferences.quiet_hours.as_ref()?;
    if rules.mandatory || priority <= hours.except_priority.unwrap_or(Priority::Critical) {
        return None;
    }
    let zone = time_zone.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    end_of_quiet(hours, &now.to_zoned(zone))
}

fn end_of_quiet(hours: &QuietHours, now: &Zoned) -> Option<Timestamp> {
    let time = now.time();
    let over_midnight = hours.from > hours.to;
    let (quiet, ends_tomorrow) = if over_midnight {
        (time >= hours.from || time < hours.to, time >= hours.from)
    } else {
        (time >= hours.from && time < hours.to, false)
    };
    if !quiet {
        return None;
    }
    let day = if ends_tomorrow { now.date().checked_add(1.day()).ok()? } else { now.date() };
    day.to_datetime(hours.to).to_zoned(now.time_zone().clone()).ok().map(|end| end.timestamp())
}

/// What the plan for one recipient is made from.
pub struct Question<'a> {
    /// The recipient.
    pub recipient: &'a Outline,
    /// The category.
    pub category: &'a CategoryId,
    /// What the category says.
    pub rules: &'a Category,
    /// The channels that the notification asked for.
    pub channels: Option<&'a [ChannelChoice]>,
    /// Only this contact.
    pub only: Option<&'a ContactRef>,
    /// The contacts that nothing is sent to.
    pub suppressed: &'a [ContactRef],
    /// Whether the notification has a text for a channel.
    pub has_text: &'a dyn Fn(Channel) -> bool,
    /// Whether somebody is set up to send on a channel.
    pub has_provider: &'a dyn Fn(Channel) -> bool,
}

/// What was decided for one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The contacts that get it: all that the recipient has on the chosen channel, or the devices of all push channels. An empty
    /// index is the inbox.
    pub deliveries: Vec<ContactRef>,
    /// The channels that came before in the order and were not used, and why.
    pub passed_over: Vec<(Channel, Reason)>,
}

/// Decides which contacts of a recipient get a notification: those of the first channel in the order that has a
/// contact, a text, a provider and the recipient's permission.
///
/// The order is the notification's `channels` as they stand; else the category's, brought into the recipient's own
/// order; else the recipient's order followed by the contacts as they are listed; the inbox comes last.
#[must_use]
pub fn plan(question: &Question<'_>) -> Plan {
    let mut plan = Plan::default();
    for choice in order(question) {
        for &channel in choice.channels() {
            let mut contacts = contacts(question, channel);
            if contacts.is_empty() {
                continue;
            }
            contacts.retain(|contact| !question.suppressed.contains(contact));
            match usable(question, channel) {
                Ok(()) if contacts.is_empty() => {
                    plan.passed_over.push((channel, Reason::AddressSuppressed));
                }
                Ok(()) => plan.deliveries.extend(contacts),
                Err(reason) => {
                    if !plan.passed_over.contains(&(channel, reason)) {
                        plan.passed_over.push((channel, reason));
                    }
                }
            }
        }
        if !plan.deliveries.is_empty() {
            break;
        }
    }
    plan
}

fn usable(question: &Question<'_>, channel: Channel) -> Result<(), Reason> {
    [Rule::Text, Rule::Preferences, Rule::Provider]
        .into_iter()
        .try_for_each(|rule| ask(question, channel, rule))
}

/// What decides whether a channel may be used, in the order in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The recipient has a contact on it.
    Contact,
    /// The notification has a text for it.
    Text,
    /// The recipient wants the category on it.
    Preferences,
    /// Somebody is set up to send on it.
    Provider,
    /// Something may be sent to the contact.
    Suppression,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 5] =
        [Rule::Contact, Rule::Text, Rule::Preferences, Rule::Provider, Rule::Suppression];
}

fn ask(question: &Question<'_>, channel: Channel, rule: Rule) -> Result<(), Reason> {
    let (holds, reason) = match rule {
        Rule::Contact => (!contacts(question, channel).is_empty(), Reason::NoUsableChannel),
        Rule::Text => ((question.has_text)(channel), Reason::NoText),
        Rule::Preferences => {
            return permitted(&question.recipient.preferences, question.category, question.rules, channel);
        }
        Rule::Provider => ((question.has_provider)(channel), Reason::NoProvider),
        Rule::Suppression => {
            let contacts = contacts(question, channel);
            let is_free = |contact: &ContactRef| !question.suppressed.contains(contact);
            (contacts.is_empty() || contacts.iter().any(is_free), Reason::AddressSuppressed)
        }
    };
    if holds { Ok(()) } else { Err(reason) }
}

/// A channel of the order, with what every rule says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// The channel.
    pub channel: Channel,
    /// Where it stands in the order. The three push channels share a place when `push` was asked for.
    pub place: usize,
    /// What the rules say; every one is asked, also behind one that refuses.
    pub rules: Vec<(Rule, Result<(), Reason>)>,
}

impl Considered {
    /// Whether it may be used.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.rules.iter().all(|(_, said)| said.is_ok())
    }
}

/// Every channel of a recipient's order with what every rule says of it, for whoever wants to know why a plan is what it is.
/// [`plan`] takes the channels of the first place where one may be used.
#[must_use]
pub fn consider(question: &Question<'_>) -> Vec<Considered> {
    let order = order(question);
    let channels = order
        .iter()
        .enumerate()
        .flat_map(|(place, choice)| choice.channels().iter().map(move |channel| (place, *channel)));
    let rules = |channel| Rule::ALL.into_iter().map(|rule| (rule, ask(question, channel, rule))).collect();
    channels.map(|(place, channel)| Considered { channel, place, rules: rules(channel) }).collect()
}

fn contacts(question: &Question<'_>, channel: Channel) -> Vec<ContactRef> {
    if let Some(only) = question.only {
        return if only.channel == channel { vec![only.clone()] } else { Vec::new() };
    }
    if channel == Channel::Inbox {
        return vec![ContactRef { channel, index: String::new() }];
    }
    let recipient = question.recipient;
    // A phone number serves both text messages and Alimtalk, whichever it was registered for.
    let serves = |own: Channel| own == channel || (own == Channel::Sms && channel == Channel::Alimtalk);
    let serving = recipient.contacts.iter().filter(|contact| serves(contact.channel));
    serving.map(|contact| ContactRef { channel, index: contact.index.clone() }).collect()
}

fn order(question: &Question<'_>) -> Vec<ChannelChoice> {
    if let Some(channels) = question.channels {
        return channels.to_vec();
    }
    if let Some(only) = question.only {
        return vec![as_choice(only.channel)];
    }
    let wanted = &question.recipient.preferences.channel_order;
    let mut order = Vec::new();
    let mut add = |choice: ChannelChoice| {
        if !order.contains(&choice) {
            order.push(choice);
        }
    };
    if question.rules.channels.is_empty() {
        wanted.iter().copied().for_each(&mut add);
        for contact in &question.recipient.contacts {
            add(if contact.channel.is_push() { ChannelChoice::Push } else { as_choice(contact.channel) });
        }
        add(ChannelChoice::Inbox);
    } else {
        let allowed = &question.rules.channels;
        wanted.iter().filter(|choice| allowed.contains(choice)).copied().for_each(&mut add);
        allowed.iter().copied().for_each(&mut add);
    }
    order
}

fn as_choice(channel: Channel) -> ChannelChoice {
    match channel {
        Channel::Apns => ChannelChoice::Apns,
        Channel::Fcm => ChannelChoice::Fcm,
        Channel::Webpush => ChannelChoice::Webpush,
        Channel::Sms => ChannelChoice::Sms,
        Channel::Email => ChannelChoice::Email,
        Channel::Telegram => ChannelChoice::Telegram,
        Channel::Alimtalk => ChannelChoice::Alimtalk,
        Channel::Webhook => ChannelChoice::Webhook,
        Channel::Inbox => ChannelChoice::Inbox,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn preferences(value: Value) -> Preferences {
        serde_json::from_value(value).unwrap()
    }

    fn category(value: Value) -> Category {
        serde_json::from_value(value).unwrap()
    }

    fn recipient(contacts: &[(Channel, &str)], wants: Value) -> Outline {
        let contacts = contacts
            .iter()
            .map(|(channel, index)| ContactRef { channel: *channel, index: (*index).to_owned() });
        Outline { contacts: contacts.collect(), preferences: preferences(wants), registered_ms: 0 }
    }

    fn channels_of(
        recipient: &Outline,
        rules: &Category,
        asked: Option<&[ChannelChoice]>,
    ) -> (Vec<Channel>, Vec<(Channel, Reason)>) {
        let question = Question {
            recipient,
            category: &"orders".parse().unwrap(),
            rules,
            channels: asked,
            only: None,
            suppressed: &[ContactRef { channel: Channel::Fcm, index: "gone".to_owned() }],
            has_text: &|_| true,
            has_provider: &|channel| channel != Channel::Sms,
        };
        let plan = plan(&question);
        // What explains a plan says the same.
        let considered = consider(&question);
        let first = considered.iter().find(|it| it.is_usable()).map(|it| it.place);
        let chosen = considered.iter().filter(|it| it.is_usable() && Some(it.place) == first);
        let mut planned: Vec<_> = plan.deliveries.iter().map(|delivery| delivery.channel).collect();
        planned.dedup();
        assert_eq!(chosen.map(|it| it.channel).collect::<Vec<_>>(), planned);
        (plan.deliveries.iter().map(|d| d.channel).collect(), plan.passed_over)
    }

    #[test]
    fn the_most_specific_rule_of_each_axis_speaks_and_both_axes_must_allow() {
        let orders: CategoryId = "orders".parse().unwrap();
        let plain = category(json!({"class": "transactional"}));
        let check =
            |wants: Value, rules: &Category, channel| permitted(&preferences(wants), &orders, rules, channel);
        assert_eq!(check(json!({}), &plain, Channel::Email), Ok(()));
        assert_eq!(
            check(json!({"channels": {"email": false}}), &plain, Channel::Email),
            Err(Reason::ChannelOptOut)
        );
        let narrow =
            json!({"channels": {"email": false}, "categories": {"orders": {"channels": {"email": true}}}});
        assert_eq!(check(narrow.clone(), &plain, Channel::Email), Ok(()));
        let off = json!({"categories": {"orders": {"enabled": false, "channels": {"email": true}}}});
        assert_eq!(check(off.clone(), &plain, Channel::Email), Err(Reason::CategoryOptOut));
        let push = json!({"channels": {"push": false, "apns": true}});
        assert_eq!(check(push.clone(), &plain, Channel::Apns), Ok(()));
        assert_eq!(check(push, &plain, Channel::Fcm), Err(Reason::ChannelOptOut));

        let marketing = category(json!({"class": "marketing"}));
        assert_eq!(
            check(json!({"marketing": false}), &marketing, Channel::Email),
            Err(Reason::MarketingOptOut)
        );
        assert_eq!(check(json!({"marketing": false}), &plain, Channel::Email), Ok(()));
        let mandatory = category(json!({"class": "transactional", "mandatory": true}));
        assert_eq!(check(off, &mandatory, Channel::Email), Ok(()));
    }

    #[test]
    fn the_first_usable_channel_gets_it() {
        let everything =
            [(Channel::Sms, "s"), (Channel::Email, "e"), (Channel::Apns, "a"), (Channel::Fcm, "f")];
        let plain = category(json!({"class": "transactional", "channels": ["sms", "email", "push"]}));
        let (got, passed) = channels_of(&recipient(&everything, json!({})), &plain, None);
        assert_eq!(got, [Channel::Email]);
        assert_eq!(passed, [(Channel::Sms, Reason::NoProvider)]);

        let ordered = recipient(&everything, json!({"channel_order": ["push", "inbox"]}));
        assert_eq!(channels_of(&ordered, &plain, None).0, [Channel::Apns, Channel::Fcm]);
        assert_eq!(channels_of(&ordered, &plain, Some(&[ChannelChoice::Inbox])).0, [Channel::Inbox]);

        let open = category(json!({"class": "transactional"}));
        assert_eq!(channels_of(&recipient(&[], json!({})), &open, None).0, [Channel::Inbox]);
        let refused = recipient(&[(Channel::Email, "e")], json!({"channels": {"email": false}}));
        let only_email = category(json!({"class": "transactional", "channels": ["email"]}));
        assert_eq!(
            channels_of(&refused, &only_email, None),
            (vec![], vec![(Channel::Email, Reason::ChannelOptOut)])
        );
    }

    #[test]
    fn what_is_suppressed_is_passed_over() {
        let plain =
            category(json!({"class": "transactional", "mandatory": true, "channels": ["push", "email"]}));
        let two = [(Channel::Fcm, "gone"), (Channel::Fcm, "f"), (Channel::Email, "e")];
        assert_eq!(channels_of(&recipient(&two, json!({})), &plain, None), (vec![Channel::Fcm], vec![]));
        let one = [(Channel::Fcm, "gone"), (Channel::Email, "e")];
        assert_eq!(
            channels_of(&recipient(&one, json!({})), &plain, None),
            (vec![Channel::Email], vec![(Channel::Fcm, Reason::AddressSuppressed)])
        );
    }

    #[test]
    fn quiet_hours_end_at_the_recipients_own_morning() {
        let wants =
            preferences(json!({"quiet_hours": {"from": "22:00", "to": "08:00", "except_priority": "high"}}));
        let plain = category(json!({"class": "transactional"}));
        let until = |now: &str, priority| {
            quiet_until(&wants, Some("Asia/Seoul"), &plain, priority, now.parse().unwrap())
                .map(|t| t.to_string())
        };
        // 23:30 in Seoul: until 08:00 the next morning there.
        assert_eq!(until("2026-12-01T14:30:00Z", Priority::Normal).as_deref(), Some("2026-12-01T23:00:00Z"));
        assert_eq!(until("2026-12-01T22:59:59Z", Priority::Normal).as_deref(), Some("2026-12-01T23:00:00Z"));
        assert_eq!(until("2026-12-01T23:00:00Z", Priority::Normal), None);
        assert_eq!(until("2026-12-01T14:30:00Z", Priority::High), None);
        let mandatory = category(json!({"class": "transactional", "mandatory": true}));
        assert_eq!(
            quiet_until(&wants, None, &mandatory, Priority::Bulk, "2026-12-01T23:00:00Z".parse().unwrap()),
            None
        );
    }

    #[test]
    fn quiet_hours_survive_the_change_to_summer_time() {
        // 02:30 does not exist in Berlin on 2026-03-29: quiet hours until then end at 03:30 summer time.
        let wants = preferences(json!({"quiet_hours": {"from": "01:00", "to": "02:30"}}));
        let plain = category(json!({"class": "transactional"}));
        let now = "2026-03-29T00:30:00Z".parse().unwrap();
        let until = quiet_until(&wants, Some("Europe/Berlin"), &plain, Priority::Normal, now).unwrap();
        assert_eq!(until.to_string(), "2026-03-29T01:30:00Z");
    }
}
