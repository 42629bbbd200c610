//! The bytes of the read model's rows: numbers of variable length, texts with their length, closed sets by number.
//!
//! What is written here is read only by the same format of the file; another format is built anew from the streams.

use peal_common::channel::{Channel, Priority};
use peal_common::event::{EventType, Status};

/// Every kind of event; its place is its number in the file.
pub(super) const KINDS: [EventType; 20] = [
    EventType::Accepted,
    EventType::Planned,
    EventType::Suppressed,
    EventType::Scheduled,
    EventType::Held,
    EventType::Retried,
    EventType::Sent,
    EventType::Delivered,
    EventType::Bounced,
    EventType::Opened,
    EventType::Clicked,
    EventType::Seen,
    EventType::Acknowledged,
    EventType::Failed,
    EventType::Expired,
    EventType::Cancelled,
    EventType::DeadLettered,
    EventType::Replayed,
    EventType::Ambiguous,
    EventType::Erased,
];

/// Every status; its place is its number in the file.
pub(super) const STATUSES: [Status; 15] = [
    Status::Accepted,
    Status::Planned,
    Status::Scheduled,
    Status::Held,
    Status::Queued,
    Status::Suppressed,
    Status::Cancelled,
    Status::Expired,
    Status::Erased,
    Status::DeadLettered,
    Status::Failed,
    Status::Ambiguous,
    Status::Sent,
    Status::Delivered,
    Status::Bounced,
];

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Seven bits a byte, the lowest first (LEB128).
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number of either sign, small when it is near 0.
    pub(super) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.raw(text.as_bytes());
    }

    pub(super) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => {
                self.byte(1);
                write(self, value);
            }
            None => self.byte(0),
        }
    }
}

/// Reads what an [`Encoder`] wrote. `None` everywhere means that the bytes are something else.
#[derive(Debug)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// A count of things that take at least a byte each: more than there are bytes is no count.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(super) fn raw<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }

    pub(super) fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    pub(super) fn kind(&mut self) -> Option<EventType> {
        KINDS.get(usize::from(self.byte()?)).copied()
    }

    pub(super) fn status(&mut self) -> Option<Status> {
        STATUSES.get(usize::from(self.byte()?)).copied()
    }

    pub(super) fn channel(&mut self) -> Option<Channel> {
        Channel::ALL.get(usize::from(self.byte()?)).copied()
    }

    pub(super) fn priority(&mut self) -> Option<Priority> {
        Priority::ALL.get(usize::from(self.byte()?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_the_lists_is_the_number_that_is_written() {
        for (place, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, status) in STATUSES.into_iter().enumerate() {
            assert_eq!(status as usize, place);
        }
        for (place, channel) in Channel::ALL.into_iter().enumerate() {
            assert_eq!(channel as usize, place);
        }
        for (place, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority as usize, place);
        }
    }

    #[test]
    fn numbers_and_texts_are_read_back_and_cut_ones_are_refused() {
        let mut out = Encoder::default();
        for value in [0, 1, 127, 128, u64::MAX] {
            out.number(value);
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            out.signed(value);
        }
        out.text("naïve");
        out.optional(Some(7), Encoder::number);
        let mut read = Decoder(&out.0);
        for value in [0, 1, 127, 128, u64::MAX] {
            assert_eq!(read.number(), Some(value));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(read.signed(), Some(value));
        }
        assert_eq!(read.text(), Some("naïve"));
        assert_eq!(read.optional(Decoder::number), Some(Some(7)));
        assert_eq!(read.byte(), None);
        assert_eq!(Decoder(&[5, b'a']).text(), None);
        assert_eq!(Decoder(&[0xff; 11]).number(), None);
        assert_eq!(Decoder(&[200, 1]).count(), None);
    }
}
