//! Writing state: read, change, and write only if nobody else wrote in between.

use std::sync::Arc;
use std::time::Duration;

use peal_common::clock::{HybridClock, Stamp};
use peal_common::state::{Record, RecordKey};

use crate::connect::Connection;
use crate::follow::StateError;
use crate::mirror::Mirror;
use crate::publish::{Outgoing, PublishError};
use crate::subjects::Subjects;
use crate::topology::OTHERS_STATE;

/// How often a write that met another one is tried again.
const MAX_CONFLICTS: u32 = 16;

/// Why a piece of state was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// JetStream could not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// JetStream could not be asked for the current version.
    #[error(transparent)]
    Read(#[from] StateError),
    /// Others wrote the same record again and again.
    #[error("the record is being written by too many at once; try again")]
    Contended,
    /// The record can't be written as JSON.
    #[error("the record cannot be encoded")]
    Encode(#[source] serde_json::Error),
}

/// Writes records of a region's state. Cheap to clone.
#[derive(Clone)]
pub struct StateWriter {
    connection: Connection,
    subjects: Subjects,
    mirror: Mirror,
    hybrid: Arc<HybridClock>,
}

/// What a write did.
#[derive(Debug, Clone)]
pub struct Written {
    /// The position in the state stream that includes the write.
    pub sequence: u64,
    /// The record after it.
    pub record: Record,
}

impl StateWriter {
    /// A writer that starts from what `mirror` knows and stamps with `hybrid`.
    #[must_use]
    pub fn new(connection: Connection, mirror: Mirror, hybrid: Arc<HybridClock>) -> Self {
        let subjects = Subjects::new(&connection.region);
        StateWriter { connection, subjects, mirror, hybrid }
    }

    /// Changes a record: `change` gets the current version and a new stamp, and is called again when somebody else
    /// wrote in between. An error of `change` ends it with nothing written; so does a change that changes nothing.
    ///
    /// # Errors
    /// The error of `change`, or [`WriteError`].
    pub async fn update<E: From<WriteError>>(
        &self,
        key: &RecordKey,
        mut change: impl FnMut(&mut Record, &Stamp) -> Result<(), E>,
    ) -> Result<Written, E> {
        let subject = self.subjects.state(key.as_str());
        // The mirror saves a round trip; when it is behind, the conditional write notices.
        let mut current = self.mirror.get_versioned(key).ok().map(|found| match found {
            Some(found) => (found.sequence, found.record),
            None => (0, Record::default()),
        });
        for _ in 0..MAX_CONFLICTS {
            let (sequence, before) = match current.take() {
                Some(known) => known,
                None => self.fetch(key).await?,
            };
            // A clock that is behind may have been started since: what is written now is later than what stands there.
            if let Some(latest) = before.latest() {
                self.hybrid.observe(latest);
            }
            let mut record = before.clone();
            let stamp = self.hybrid.stamp();
            change(&mut record, &stamp)?;
            if record == before {
                return Ok(Written { sequence, record });
            }
            let payload = serde_json::to_vec(&record).map_err(WriteError::Encode)?;
            let mut outgoing = Outgoing::new(subject.clone(), payload).expect_last(sequence);
            // What has an end takes itself out of the stream, and with it out of every mirror.
            if let Some(left) = record.expires_ms.and_then(|end| end.checked_sub(stamp.ms)) {
                outgoing = outgoing.ttl(Duration::from_millis(left));
            }
            match self.connection.publish(outgoing).await {
                Ok(published) => return Ok(Written { sequence: published.sequence, record }),
                Err(PublishError::Conflict) => {}
                Err(error) => return Err(WriteError::from(error).into()),
            }
        }
        Err(WriteError::Contended.into())
    }

    /// Makes this region's stream forget what was erased: `erased` is the record as all regions together have it. Nothing
    /// is written when the stream holds nothing older.
    ///
    /// # Errors
    /// [`WriteError`], also when somebody else writes at the same time: ask again then.
    pub async fn take_over_erasure(&self, key: &RecordKey, erased: Record) -> Result<(), WriteError> {
        let subject = self.subjects.state(key.as_str());
        let Some((sequence, mut record)) = self.last(&self.subjects.state_stream(), &subject).await? else {
            return Ok(());
        };
        if record.era >= erased.era {
            return Ok(());
        }
        record.merge(erased);
        let payload = serde_json::to_vec(&record).map_err(WriteError::Encode)?;
        match self.connection.publish(Outgoing::new(subject, payload).expect_last(sequence)).await {
            Ok(_) => Ok(()),
            Err(PublishError::Conflict) => Err(WriteError::Contended),
            Err(error) => Err(error.into()),
        }
    }

    /// What this region knows of a record, from JetStream; with the sequence of its own message, 0 when it wrote none.
    ///
    /// # Errors
    /// [`WriteError::Read`]
    pub async fn fetch(&self, key: &RecordKey) -> Result<(u64, Record), WriteError> {
        let own = self.last(&self.subjects.state_stream(), &self.subjects.state(key.as_str())).await?;
        let (sequence, mut record) = own.unwrap_or_default();
        self.merge_others(key, &mut record).await?;
        Ok((sequence, record))
    }

    async fn merge_others(&self, key: &RecordKey, record: &mut Record) -> Result<(), WriteError> {
        for other in self.connection.others.iter() {
            let subject = Subjects::new(other).state(key.as_str());
            if let Some((_, other)) = self.last(OTHERS_STATE, &subject).await? {
                record.merge(other);
            }
        }
        Ok(())
    }

    /// The last message of a subject and its sequence. What is no record is replaced: it is none of ours, and the mirror
    /// has put it aside.
    async fn last(&self, stream: &str, subject: &str) -> Result<Option<(u64, Record)>, WriteError> {
        let Some(found) = self.connection.last_of(stream, subject).await? else { return Ok(None) };
        let removed = found.is_removal();
        let record = if removed { None } else { serde_json::from_slice(&found.payload).ok() };
        Ok(Some((found.sequence, record.unwrap_or_default())))
    }
}
