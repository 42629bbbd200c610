//! What stands in the streams, from where the file stands on: a follower for each, and as much of it in memory as there is
//! room for.

use std::sync::Arc;

use peal_nats::follow::{Followed, Follower};
use peal_nats::{Connection, Subjects, topology};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::readmodel::messages::Source;
use crate::readmodel::store::Position;

/// Batches that wait for the writer.
const QUEUE: usize = 4;
/// The most that messages which were read and not yet folded take in memory.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// What a follower hands over.
pub(super) struct Fed {
    pub(super) source: Source,
    pub(super) followed: Followed,
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// Starts a follower for each of `sources`. They end when what they are returned with is dropped.
pub(super) fn follow(
    connection: &Connection,
    sources: &[Source],
    positions: &[Position; 3],
) -> (mpsc::Receiver<Fed>, JoinSet<()>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let memory = Arc::new(Semaphore::new(QUEUE_BYTES));
    let mut followers = JoinSet::new();
    for source in sources.iter().copied() {
        let position = &positions[source as usize];
        let follower = Follower::new(
            connection.clone(),
            stream(source),
            &filter(connection, source),
            position.created.clone(),
            position.sequence,
        );
        followers.spawn(feed(source, follower, sender.clone(), Arc::clone(&memory)));
    }
    (receiver, followers)
}

async fn feed(source: Source, mut follower: Follower, fed: mpsc::Sender<Fed>, memory: Arc<Semaphore>) {
    loop {
        let followed = follower.next().await;
        let memory = match &followed {
            Followed::Messages(messages) => {
                let bytes =
                    messages.iter().map(|message| message.payload.len()).sum::<usize>().min(QUEUE_BYTES);
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Arc::clone(&memory).acquire_many_owned(bytes).await.ok()
            }
            Followed::Quiet(_) | Followed::Replaced(_) => None,
        };
        if fed.send(Fed { source, followed, memory }).await.is_err() {
            return;
        }
    }
}

/// The name of its stream.
pub(super) const fn stream(source: Source) -> &'static str {
    match source {
        Source::Intake => topology::INTAKE,
        Source::Events => topology::EVENTS,
        Source::Inbox => topology::INBOX,
    }
}

fn filter(connection: &Connection, source: Source) -> String {
    if connection.is_hub {
        return String::new();
    }
    let subjects = Subjects::new(&connection.region);
    match source {
        Source::Intake => subjects.intake_all(),
        Source::Events => subjects.event_all(),
        Source::Inbox => subjects.inbox_all(),
    }
}
