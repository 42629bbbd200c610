//! A redb table in two parts, for keys that come in no order, such as digests.
//!
//! An entry among a million others with such a key changes a page of its own, where entries in order share one, and the
//! more there are, the less of them is kept in memory. So new entries go into a small table, all of whose pages are at
//! hand. A hand that moves round it carries entries on into the large one, at each transaction as
//! many as are too many, and all of a range: those meet each other on the pages of the large table. Both parts belong
//! to the same transaction, so nothing has to be recovered.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::iter::{Peekable, Rev};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use redb::{
    AccessGuard, Key, ReadOnlyTable, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _,
    StorageError, Table, TableDefinition, TableError, Value, WriteTransaction,
};

/// The small part holds this fraction of the large one: with it, a page of the large part takes about as many entries
/// at once when it has grown as when it was small.
const SHARE: u64 = 32;
/// Entries that the small part holds at least: few enough pages to be kept in memory.
const LEAST: u64 = 8_000;
/// And at most: with more, each transaction would change too many pages of the small part.
const MOST: u64 = 100_000;

/// The two tables.
#[derive(Clone, Copy)]
pub struct DeltaDefinition<K: Key + 'static, V: Value + 'static> {
    recent: TableDefinition<'static, K, V>,
    settled: TableDefinition<'static, K, V>,
}

impl<K: Key + 'static, V: Value + 'static> DeltaDefinition<K, V> {
    /// A pair of tables by their names.
    #[must_use]
    pub const fn new(recent: &'static str, settled: &'static str) -> Self {
        DeltaDefinition { recent: TableDefinition::new(recent), settled: TableDefinition::new(settled) }
    }

    /// Opens both for writing; makes them when they are missing.
    ///
    /// # Errors
    /// As [`WriteTransaction::open_table`].
    pub fn open<'t>(&self, write: &'t WriteTransaction) -> Result<DeltaTable<'t, K, V>, TableError> {
        Ok(DeltaTable { recent: write.open_table(self.recent)?, settled: write.open_table(self.settled)? })
    }

    /// Opens both as a transaction sees them.
    ///
    /// # Errors
    /// As [`ReadTransaction::open_table`].
    pub fn view(&self, read: &ReadTransaction) -> Result<DeltaView<K, V>, TableError> {
        Ok(DeltaView { recent: read.open_table(self.recent)?, settled: read.open_table(self.settled)? })
    }
}

/// Where the hand stands. It may be forgotten: it then begins anew.
#[derive(Debug, Default)]
pub struct Hand(Mutex<Option<Vec<u8>>>);

/// Both tables, to be changed.
pub struct DeltaTable<'t, K: Key + 'static, V: Value + 'static> {
    recent: Table<'t, K, V>,
    settled: Table<'t, K, V>,
}

impl<K: Key + 'static, V: Value + 'static> DeltaTable<'_, K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, StorageError> {
        match self.recent.get(key.borrow())? {
            Some(value) => Ok(Some(value)),
            None => self.settled.get(key.borrow()),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<(), StorageError> {
        self.recent.insert(key, value).map(drop)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<(), StorageError> {
        self.recent.remove(key.borrow())?;
        self.settled.remove(key.borrow()).map(drop)
    }

    /// Carries on what is too many in the small part. To be called once at the end of each transaction.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn settle(&mut self, hand: &Hand) -> Result<(), StorageError> {
        let room = (self.settled.len()? / SHARE).clamp(LEAST, MOST);
        let surplus = self.recent.len()?.saturating_sub(room);
        self.carry(hand, usize::try_from(surplus).unwrap_or(usize::MAX))
    }

    /// Carries on as many entries as there are from the hand to the end of the small part, at most `count`.
    fn carry(&mut self, hand: &Hand, count: usize) -> Result<(), StorageError> {
        if count == 0 {
            return Ok(());
        }
        let mut hand = hand.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moving = Vec::with_capacity(count.min(MOST as usize));
        let from = hand.as_deref().map_or(Bound::Unbounded, |key| Bound::Excluded(K::from_bytes(key)));
        for entry in self.recent.range::<K::SelfType<'_>>((from, Bound::Unbounded))?.take(count) {
            let (key, value) = entry?;
            let (key, value) = (key.value(), value.value());
            moving.push((K::as_bytes(&key).as_ref().to_vec(), V::as_bytes(&value).as_ref().to_vec()));
        }
        for (key, value) in &moving {
            self.settled.insert(K::from_bytes(key), V::from_bytes(value))?;
        }
        if let (Some((first, _)), Some((last, _))) = (moving.first(), moving.last()) {
            let moved = K::from_bytes(first)..=K::from_bytes(last);
            self.recent.retain_in::<K::SelfType<'_>, _>(moved, |_, _| false)?;
        }
        // Fewer than wanted: the hand has come round, and the next transaction begins at the first key.
        *hand = if moving.len() == count { moving.pop().map(|(key, _)| key) } else { None };
        Ok(())
    }
}

/// Both tables as a transaction left them.
pub struct DeltaView<K: Key + 'static, V: Value + 'static> {
    recent: ReadOnlyTable<K, V>,
    settled: ReadOnlyTable<K, V>,
}

impl<K: Key + 'static, V: Value + 'static> DeltaView<K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'static, V>>, StorageError> {
        match self.recent.get(key.borrow())? {
            Some(value) => Ok(Some(value)),
            None => self.settled.get(key.borrow()),
        }
    }

    /// How many entries there are; one that stands in both parts counts twice.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn count(&self) -> Result<u64, StorageError> {
        Ok(self.recent.len()? + self.settled.len()?)
    }

    /// All keys, in no order; one that stands in both parts comes twice.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn keys(
        &self,
    ) -> Result<impl Iterator<Item = Result<AccessGuard<'static, K>, StorageError>> + use<K, V>, StorageError>
    {
        let all = self.settled.range::<K::SelfType<'_>>(..)?.chain(self.recent.range::<K::SelfType<'_>>(..)?);
        Ok(all.map(|entry| entry.map(|(key, _)| key)))
    }

    /// The first key from `from` on.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn first_from<'k>(
        &self,
        from: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'static, K>>, StorageError> {
        let first = |table: &ReadOnlyTable<K, V>| {
            let found = table.range::<K::SelfType<'_>>((Bound::Included(from.borrow()), Bound::Unbounded))?;
            found.map(|entry| entry.map(|(key, _)| key)).next().transpose()
        };
        Ok(match (first(&self.recent)?, first(&self.settled)?) {
            (Some(one), Some(other)) if compare(&other, &one).is_lt() => Some(other),
            (one, other) => one.or(other),
        })
    }

    /// The keys from `from` on and before `to`, the last first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn keys_back<'k>(
        &self,
        from: impl Borrow<K::SelfType<'k>>,
        to: impl Borrow<K::SelfType<'k>>,
    ) -> Result<KeysBack<K, V>, StorageError> {
        let range = (Bound::Included(from.borrow()), Bound::Excluded(to.borrow()));
        let keys = |table: &ReadOnlyTable<K, V>| {
            Ok::<_, StorageError>(table.range::<K::SelfType<'_>>(range)?.rev().peekable())
        };
        Ok(KeysBack { recent: keys(&self.recent)?, settled: keys(&self.settled)? })
    }
}

/// The keys of a range, the last first. See [`DeltaView::keys_back`].
pub struct KeysBack<K: Key + 'static, V: Value + 'static> {
    recent: Peekable<Rev<redb::Range<'static, K, V>>>,
    settled: Peekable<Rev<redb::Range<'static, K, V>>>,
}

impl<K: Key + 'static, V: Value + 'static> Iterator for KeysBack<K, V> {
    type Item = Result<AccessGuard<'static, K>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.recent.peek(), self.settled.peek()) {
            (Some(Ok((one, _))), Some(Ok((other, _)))) => compare(one, other),
            (None, _) | (_, Some(Err(_))) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let next = match order {
            Ordering::Less => self.settled.next(),
            Ordering::Greater => self.recent.next(),
            // The same key in both parts is one.
            Ordering::Equal => self.settled.next().and(self.recent.next()),
        };
        next.map(|entry| entry.map(|(key, _)| key))
    }
}

fn compare<K: Key + 'static>(one: &AccessGuard<'_, K>, other: &AccessGuard<'_, K>) -> Ordering {
    let (one, other) = (one.value(), other.value());
    K::compare(K::as_bytes(&one).as_ref(), K::as_bytes(&other).as_ref())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use redb::{Database, ReadableDatabase as _};

    use super::*;

    const TABLE: DeltaDefinition<&[u8; 2], u32> = DeltaDefinition::new("recent", "settled");

    #[derive(Debug, Clone)]
    enum Step {
        Insert([u8; 2], u32),
        Remove([u8; 2]),
        Carry(usize),
        Forget,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || [0..8_u8, 0..8_u8];
        prop_oneof![
            4 => (key(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            2 => key().prop_map(Step::Remove),
            2 => (0..6_usize).prop_map(Step::Carry),
            1 => Just(Step::Forget),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_holds_what_one_table_would(steps in proptest::collection::vec(step(), 0..80)) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let database = Database::create(file.path()).unwrap();
            let write = database.begin_write().unwrap();
            let mut table = TABLE.open(&write).unwrap();
            let mut hand = Hand::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        table.insert(&key, value).unwrap();
                        model.insert(key, value);
                    }
                    Step::Remove(key) => {
                        table.remove(&key).unwrap();
                        model.remove(&key);
                    }
                    Step::Carry(count) => table.carry(&hand, count).unwrap(),
                    Step::Forget => hand = Hand::default(),
                }
            }
            for (key, value) in &model {
                prop_assert_eq!(table.get(key).unwrap().map(|found| found.value()), Some(*value));
            }
            drop(table);
            write.commit().unwrap();
            let view = TABLE.view(&database.begin_read().unwrap()).unwrap();
            for (first, second) in (0..8).flat_map(|first| (0..8).map(move |second| (first, second))) {
                let key = [first, second];
                prop_assert_eq!(view.get(&key).unwrap().map(|found| found.value()), model.get(&key).copied());
                let next = view.first_from(&key).unwrap().map(|found| *found.value());
                prop_assert_eq!(next, model.range(key..).next().map(|(key, _)| *key));
            }
            let mut keys: Vec<_> = view.keys().unwrap().map(|key| *key.unwrap().value()).collect();
            prop_assert_eq!(keys.len() as u64, view.count().unwrap());
            keys.sort_unstable();
            keys.dedup();
            prop_assert_eq!(keys, model.keys().copied().collect::<Vec<_>>());
            let back: Vec<_> = view.keys_back(&[1, 3], &[6, 2]).unwrap().map(|key| *key.unwrap().value()).collect();
            let expected: Vec<_> = model.range([1, 3]..[6, 2]).rev().map(|(key, _)| *key).collect();
            prop_assert_eq!(back, expected);
        }
    }

    #[test]
    fn the_small_part_stays_small_and_the_hand_goes_round() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let database = Database::create(file.path()).unwrap();
        let write = database.begin_write().unwrap();
        let mut table = DeltaDefinition::<u64, ()>::new("recent", "settled").open(&write).unwrap();
        let hand = Hand::default();
        for round in 0..10_u64 {
            for number in 0..3_000_u64 {
                // In no order: a multiple of a prime, modulo a power of two.
                table.insert((round * 3_000 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15), ()).unwrap();
            }
            table.settle(&hand).unwrap();
            // What is left at the end of a round is carried on in the next one.
            assert!(table.recent.len().unwrap() <= LEAST + 3_000);
        }
        assert_eq!(table.recent.len().unwrap() + table.settled.len().unwrap(), 30_000);
        assert!(table.settled.len().unwrap() >= 30_000 - LEAST - 3_000);
    }
}
