//! Channels and priorities: the two closed sets that name queues, lanes and metrics.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A way to reach somebody. Each channel has a work stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging.
    Fcm,
    /// Web Push (RFC 8030).
    Webpush,
    /// Text messages to a phone number.
    Sms,
    /// E-mail.
    Email,
    /// Messages of a Telegram bot to a chat.
    Telegram,
    /// Kakao Alimtalk.
    Alimtalk,
    /// An HTTP request signed to the Standard Webhooks specification.
    Webhook,
    /// The in-app inbox that Peal itself keeps.
    Inbox,
}

impl Channel {
    /// Every channel, in the order in which streams and tables list them.
    pub const ALL: [Channel; 9] = [
        Channel::Apns,
        Channel::Fcm,
        Channel::Webpush,
        Channel::Sms,
        Channel::Email,
        Channel::Telegram,
        Channel::Alimtalk,
        Channel::Webhook,
        Channel::Inbox,
    ];

    /// The name used in the API, in subjects and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Channel::Apns => "apns",
            Channel::Fcm => "fcm",
            Channel::Webpush => "webpush",
            Channel::Sms => "sms",
            Channel::Email => "email",
            Channel::Telegram => "telegram",
            Channel::Alimtalk => "alimtalk",
            Channel::Webhook => "webhook",
            Channel::Inbox => "inbox",
        }
    }

    /// Whether the channel is one of the three that `push` stands for.
    #[must_use]
    pub const fn is_push(self) -> bool {
        matches!(self, Channel::Apns | Channel::Fcm | Channel::Webpush)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is neither a channel nor `push`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown channel; known are apns, fcm, webpush, sms, email, telegram, alimtalk, webhook, inbox")]
pub struct UnknownChannel;

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Channel::ALL.into_iter().find(|channel| channel.as_str() == name).ok_or(UnknownChannel)
    }
}

/// A set of channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelSet(u16);

impl ChannelSet {
    /// Adds a channel.
    pub fn insert(&mut self, channel: Channel) {
        self.0 |= 1 << channel as u16;
    }

    /// Whether a channel is in the set.
    #[must_use]
    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & (1 << channel as u16) != 0
    }

    /// The channels of the set, in the order of [`Channel::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(move |channel| self.contains(*channel))
    }

    /// The set as a number for files: a bit for each channel, at its place in [`Channel::ALL`]. 0 is the empty set.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set that [`ChannelSet::bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        ChannelSet(bits)
    }
}

/// What people write where a channel is chosen: a channel, or `push` for a recipient's `apns`, `fcm` and `webpush`
/// contacts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelChoice {
    /// All push contacts.
    Push,
    /// See [`Channel::Apns`].
    Apns,
    /// See [`Channel::Fcm`].
    Fcm,
    /// See [`Channel::Webpush`].
    Webpush,
    /// See [`Channel::Sms`].
    Sms,
    /// See [`Channel::Email`].
    Email,
    /// See [`Channel::Telegram`].
    Telegram,
    /// See [`Channel::Alimtalk`].
    Alimtalk,
    /// See [`Channel::Webhook`].
    Webhook,
    /// See [`Channel::Inbox`].
    Inbox,
}

impl ChannelChoice {
    /// The channels that this choice stands for, in order.
    #[must_use]
    pub const fn channels(self) -> &'static [Channel] {
        match self {
            ChannelChoice::Push => &[Channel::Apns, Channel::Fcm, Channel::Webpush],
            ChannelChoice::Apns => &[Channel::Apns],
            ChannelChoice::Fcm => &[Channel::Fcm],
            ChannelChoice::Webpush => &[Channel::Webpush],
            ChannelChoice::Sms => &[Channel::Sms],
            ChannelChoice::Email => &[Channel::Email],
            ChannelChoice::Telegram => &[Channel::Telegram],
            ChannelChoice::Alimtalk => &[Channel::Alimtalk],
            ChannelChoice::Webhook => &[Channel::Webhook],
            ChannelChoice::Inbox => &[Channel::Inbox],
        }
    }

    /// Whether `channel` is meant by this choice.
    #[must_use]
    pub fn covers(self, channel: Channel) -> bool {
        self.channels().contains(&channel)
    }
}

/// How urgent a notification is. Each priority is a lane of its own in every queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Overtakes everything; passes quiet hours.
    Critical,
    /// Ahead of ordinary traffic.
    High,
    /// The default.
    Normal,
    /// Campaigns and other mass mail; the default of the marketing class.
    Bulk,
}

impl Priority {
    /// Every priority, most urgent first.
    pub const ALL: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Normal, Priority::Bulk];

    /// The name used in the API, in subjects and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serde_names_and_parse_back() {
        for channel in Channel::ALL {
            assert_eq!(serde_json::to_value(channel).unwrap(), channel.as_str());
            assert_eq!(channel.as_str().parse::<Channel>().unwrap(), channel);
        }
        assert!("push".parse::<Channel>().is_err());
    }

    #[test]
    fn push_stands_for_exactly_the_three_push_channels() {
        for channel in Channel::ALL {
            assert_eq!(ChannelChoice::Push.covers(channel), channel.is_push());
        }
    }
}
