//! One event as the log of events keeps it.

use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::event::{Event, EventType};
use sha2::{Digest as _, Sha256};

use super::codec::{Decoder, Encoder};

/// The place of an event among those of its app: its time, then a number made of its kind and its content. Two
/// events with the same place are the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EventKey {
    /// Milliseconds since the Unix epoch.
    pub(super) at: i64,
    /// The kind in the highest byte, then a digest: events of the same millisecond stand in the order of kinds.
    pub(super) order: u64,
}

/// An event with what a search looks at and shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    pub(super) kind: EventType,
    pub(super) notification: &'a str,
    pub(super) delivery: Option<u128>,
    pub(super) recipient: Option<&'a str>,
    pub(super) channel: Option<Channel>,
    pub(super) provider: Option<&'a str>,
    pub(super) attempts: Option<u32>,
    pub(super) reason: Option<&'a str>,
    pub(super) provider_id: Option<&'a str>,
    pub(super) until: Option<i64>,
    pub(super) replays: u32,
    /// How many deliveries a plan has.
    pub(super) planned: usize,
}

impl<'a> Logged<'a> {
    pub(super) fn of(event: &'a Event, delivery: Option<u128>) -> Self {
        Logged {
            kind: event.kind,
            notification: event.notification.as_str(),
            delivery,
            recipient: event.recipient.as_ref().map(|recipient| recipient.as_str()),
            channel: event.channel,
            provider: event.provider.as_deref(),
            attempts: event.attempts,
            reason: event.reason.as_deref(),
            provider_id: event.provider_id.as_deref(),
            until: event.until.map(Timestamp::as_millisecond),
            replays: event.replays.unwrap_or(0),
            planned: event.deliveries.len(),
        }
    }

    /// The acceptance of a notification, which is no message in EVENTS.
    pub(super) fn accepted(notification: &'a str) -> Self {
        Logged {
            kind: EventType::Accepted,
            notification,
            delivery: None,
            recipient: None,
            channel: None,
            provider: None,
            attempts: None,
            reason: None,
            provider_id: None,
            until: None,
            replays: 0,
            planned: 0,
        }
    }

    /// The bytes, and the place of the event. `planned` are the deliveries of a plan: parts of a large one differ in
    /// nothing else.
    pub(super) fn encode(&self, at: i64, planned: &[u128]) -> (EventKey, Vec<u8>) {
        let mut out = Encoder(Vec::with_capacity(96));
        out.byte(self.kind as u8);
        out.text(self.notification);
        let present = [
            self.delivery.is_some(),
            self.recipient.is_some(),
            self.channel.is_some(),
            self.provider.is_some(),
            self.attempts.is_some(),
            self.reason.is_some(),
            self.provider_id.is_some(),
            self.until.is_some(),
        ];
        out.byte(present.iter().enumerate().fold(0, |bits, (place, on)| bits | (u8::from(*on) << place)));
        if let Some(delivery) = self.delivery {
            out.raw(&delivery.to_be_bytes());
        }
        if let Some(recipient) = self.recipient {
            out.text(recipient);
        }
        if let Some(channel) = self.channel {
            out.byte(channel as u8);
        }
        if let Some(provider) = self.provider {
            out.text(provider);
        }
        if let Some(attempts) = self.attempts {
            out.number(attempts.into());
        }
        if let Some(reason) = self.reason {
            out.text(reason);
        }
        if let Some(provider_id) = self.provider_id {
            out.text(provider_id);
        }
        if let Some(until) = self.until {
            out.signed(until);
        }
        out.number(self.replays.into());
        out.number(self.planned as u64);

        let mut hash = Sha256::new_with_prefix(&out.0);
        for delivery in planned {
            hash.update(delivery.to_be_bytes());
        }
        let digest = hash.finalize();
        let mut order = [0; 8];
        order.copy_from_slice(&digest[..8]);
        order[0] = self.kind as u8;
        (EventKey { at, order: u64::from_be_bytes(order) }, out.0)
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut read = Decoder(bytes);
        let kind = read.kind()?;
        let notification = read.text()?;
        let bits = read.byte()?;
        let present = |place: u8| bits & (1 << place) != 0;
        macro_rules! given {
            ($place:expr, $read:expr) => {
                if present($place) { Some($read?) } else { None }
            };
        }
        Some(Logged {
            kind,
            notification,
            delivery: given!(0, read.raw().map(u128::from_be_bytes)),
            recipient: given!(1, read.text()),
            channel: given!(2, read.channel()),
            provider: given!(3, read.text()),
            attempts: given!(4, read.number().and_then(|attempts| u32::try_from(attempts).ok())),
            reason: given!(5, read.text()),
            provider_id: given!(6, read.text()),
            until: given!(7, read.signed()),
            replays: u32::try_from(read.number()?).ok()?,
            planned: usize::try_from(read.number()?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_back_and_counts_for_the_place() {
        let full = Logged {
            kind: EventType::Held,
            notification: "n-1",
            delivery: Some(7),
            recipient: Some("u-1"),
            channel: Some(Channel::Sms),
            provider: Some("twilio"),
            attempts: Some(3),
            reason: Some("quiet_hours"),
            provider_id: Some("SM1"),
            until: Some(1_000),
            replays: 2,
            planned: 4,
        };
        let (key, bytes) = full.encode(5, &[1, 2]);
        assert_eq!(Logged::decode(&bytes), Some(full.clone()));
        assert_eq!(key.at, 5);
        assert_ne!(full.encode(5, &[1, 3]).0, key);
        assert_ne!(Logged { reason: None, ..full.clone() }.encode(5, &[1, 2]).0, key);
        assert_eq!(Logged::decode(&bytes[..bytes.len() - 1]), None);
        let bare = Logged::accepted("n-1");
        let (earlier, bytes) = bare.encode(5, &[]);
        assert_eq!(Logged::decode(&bytes), Some(bare));
        assert!(earlier < key, "kinds order the events of a millisecond");
    }
}
