//! The keys of the file's tables: fixed widths, big endian, so that their order is the order of what they mean.

use peal_common::channel::Channel;
use sha2::{Digest as _, Sha256};

use crate::readmodel::logged::EventKey;

/// A row or an event: the app's number, a time in milliseconds, and what tells apart what happened in the same one.
/// For rows that is the beginning of the digest of the id, for events [`EventKey::order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimeKey {
    pub(super) app: u32,
    pub(super) time: u64,
    pub(super) order: u64,
}

impl TimeKey {
    pub(super) const BYTES: usize = 20;

    pub(super) fn of_row(app: u32, time: i64, id: u128) -> Self {
        TimeKey { app, time: unsigned(time), order: (id >> 64) as u64 }
    }

    pub(super) fn of_event(app: u32, key: EventKey) -> Self {
        TimeKey { app, time: unsigned(key.at), order: key.order }
    }

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&self.app.to_be_bytes());
        out[4..12].copy_from_slice(&self.time.to_be_bytes());
        out[12..].copy_from_slice(&self.order.to_be_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        TimeKey {
            app: u32::from_be_bytes(part(bytes, 0)),
            time: u64::from_be_bytes(part(bytes, 4)),
            order: u64::from_be_bytes(part(bytes, 12)),
        }
    }
}

/// An entry by which rows are found: what is looked for, then the row's time and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexKey {
    pub(super) tag: u64,
    pub(super) time: u64,
    pub(super) order: u64,
}

impl IndexKey {
    pub(super) const BYTES: usize = 24;

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.tag.to_be_bytes());
        out[8..16].copy_from_slice(&self.time.to_be_bytes());
        out[16..].copy_from_slice(&self.order.to_be_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        IndexKey {
            tag: u64::from_be_bytes(part(bytes, 0)),
            time: u64::from_be_bytes(part(bytes, 8)),
            order: u64::from_be_bytes(part(bytes, 16)),
        }
    }
}

/// An item of an inbox: whose it is, then its sequence in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InboxKey {
    pub(super) owner: u128,
    pub(super) sequence: u64,
}

impl InboxKey {
    pub(super) const BYTES: usize = 24;

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..16].copy_from_slice(&self.owner.to_be_bytes());
        out[16..].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        InboxKey { owner: u128::from_be_bytes(part(bytes, 0)), sequence: u64::from_be_bytes(part(bytes, 16)) }
    }
}

/// Whose item it is, and its number: finds the item that a mark is for.
pub(super) fn item_key(owner: u128, item: u128) -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(&owner.to_be_bytes());
    out[16..].copy_from_slice(&item.to_be_bytes());
    out
}

/// The number of a notification: 16 bytes of a digest, at which nobody finds two ids that share one.
pub(super) fn notification_number(app: &str, id: &str) -> u128 {
    u128::from_be_bytes(part(&digest(b'n', &[app, id]), 0))
}

/// The number of a recipient's inbox.
pub(super) fn inbox_number(app: &str, recipient: &str) -> u128 {
    u128::from_be_bytes(part(&digest(b'i', &[app, recipient]), 0))
}

/// What rows to a recipient are found by. Rows are compared with what was looked for, so that a shared tag is harmless.
pub(super) fn recipient_tag(app: &str, recipient: &str) -> u64 {
    u64::from_be_bytes(part(&digest(b'r', &[app, recipient]), 0))
}

/// What rows to a contact are found by.
pub(super) fn contact_tag(app: &str, channel: Channel, index: &str) -> u64 {
    u64::from_be_bytes(part(&digest(b'c', &[app, channel.as_str(), index]), 0))
}

/// Times before 1970 count as 1970.
pub(super) fn unsigned(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

fn digest(domain: u8, parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([domain]);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn part<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}
