//! Which ids are certainly not in the file, told from memory: nearly every id that a publisher gives is new, and to look
//! it up in the file would cost more than any other step of its acceptance.

use std::sync::atomic::{AtomicU64, Ordering};

use fastbloom::AtomicBloomFilter;
use peal_nats::delta::DeltaView;
use redb::StorageError;

/// With so many bits for each id one in a hundred new ones is looked up in vain.
const BITS_PER_ID: u64 = 10;
/// The least and the most ids that there is room for: 1.25 MB and 40 MB.
const LEAST: u64 = 1_000_000;
const MOST: u64 = 32_000_000;
/// With more ids than these hardly anything would be told from memory.
const TOO_MANY: u64 = 2 * MOST;

/// A Bloom filter of the ids in the file, and of some that have been removed.
pub(super) struct SeenIds {
    /// `None` when there are too many.
    filter: Option<AtomicBloomFilter>,
    /// How many more there may be before it has to be made anew.
    left: AtomicU64,
}

impl SeenIds {
    /// Reads all that are there, with room for as many again.
    pub(super) fn read(ids: &DeltaView<&'static [u8; 16], u64>) -> Result<Self, StorageError> {
        let count = ids.count()?;
        if count > TOO_MANY {
            return Ok(SeenIds { filter: None, left: AtomicU64::new(u64::MAX) });
        }
        let room = (2 * count).clamp(LEAST, MOST);
        let bits = usize::try_from(room * BITS_PER_ID).unwrap_or(usize::MAX);
        let filter = AtomicBloomFilter::with_num_bits(bits)
            .expected_items(usize::try_from(room).unwrap_or(usize::MAX));
        for key in ids.keys()? {
            filter.insert(key?.value());
        }
        let left = room.saturating_sub(count).max(count / 2);
        Ok(SeenIds { filter: Some(filter), left: AtomicU64::new(left) })
    }

    /// Adds an id, before the transaction that brings it is done.
    pub(super) fn add(&self, id: &[u8; 16]) {
        let Some(filter) = &self.filter else { return };
        // One that is there already takes no room.
        if !filter.insert(id) {
            let used = |left: u64| Some(left.saturating_sub(1));
            let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, used);
        }
    }

    /// Whether an id may be in the file. `false` is certain.
    pub(super) fn may_hold(&self, id: &[u8; 16]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.contains(id))
    }

    /// Whether it holds so many that it tells little.
    pub(super) fn is_full(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use peal_nats::delta::DeltaDefinition;
    use redb::{Database, ReadableDatabase as _};

    use super::*;

    const IDS: DeltaDefinition<&[u8; 16], u64> = DeltaDefinition::new("recent", "settled");

    /// In no order, as digests are.
    fn id(number: u64) -> [u8; 16] {
        u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
    }

    #[test]
    fn what_is_there_is_always_found_and_what_is_new_hardly_ever() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let database = Database::create(file.path()).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut ids = IDS.open(&write).unwrap();
            (0..20_000).for_each(|number| ids.insert(&id(number), number).unwrap());
            ids.settle(&Default::default()).unwrap();
        }
        write.commit().unwrap();
        let seen = SeenIds::read(&IDS.view(&database.begin_read().unwrap()).unwrap()).unwrap();
        (20_000..30_000).for_each(|number| seen.add(&id(number)));
        assert!((0..30_000).all(|number| seen.may_hold(&id(number))));
        let in_vain = (30_000..130_000).filter(|number| seen.may_hold(&id(*number))).count();
        assert!(in_vain < 1_000, "{in_vain}");
    }

    #[test]
    fn it_is_full_when_there_is_no_room_for_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let database = Database::create(file.path()).unwrap();
        let write = database.begin_write().unwrap();
        drop(IDS.open(&write).unwrap());
        write.commit().unwrap();
        let seen = SeenIds::read(&IDS.view(&database.begin_read().unwrap()).unwrap()).unwrap();
        (0..LEAST / 2).for_each(|number| seen.add(&id(number)));
        (0..LEAST / 2).for_each(|number| seen.add(&id(number)));
        assert!(!seen.is_full());
        (LEAST / 2..LEAST * 11 / 10).for_each(|number| seen.add(&id(number)));
        assert!(seen.is_full());
        let in_vain = (2 * LEAST..2 * LEAST + 10_000).filter(|number| seen.may_hold(&id(*number))).count();
        assert!(in_vain < 500, "{in_vain}");
    }
}
