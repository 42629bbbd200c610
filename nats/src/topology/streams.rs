//! The definition of every stream and durable consumer of a region.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use peal_common::channel::{Channel, Priority};

use super::Options;
use super::metadata;
use crate::subjects::{Region, Subjects};

/// Accepted notifications; the only stream that deduplicates for users.
pub const INTAKE: &str = "INTAKE";
/// Whatever waits longer than about a minute.
pub const SCHEDULE: &str = "SCHEDULE";
/// What happened to notifications and deliveries.
pub const EVENTS: &str = "EVENTS";
/// Deliveries that were given up.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// Intents to call a provider, for channels that must not resend blindly.
pub const ATTEMPTS: &str = "ATTEMPTS";
/// The in-app inboxes.
pub const INBOX: &str = "INBOX";
/// The buckets of rate limits that all dispatchers share.
pub const LIMITS: &str = "LIMITS";
/// What the sandbox provider recorded.
pub const SANDBOX: &str = "SANDBOX";
/// The durable consumer of `SCHEDULE` that takes what has become due.
pub const DUE_CONSUMER: &str = "due";

/// An intent is of interest until the delivery is known to have ended, which may be when dispatchers are back: longer than
/// the longest time to live of a notification. What is settled goes by itself.
const ATTEMPTS_MAX_AGE: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// Items kept per recipient; marks count on their own, as they have a subject of their own.
const INBOX_PER_SUBJECT: i64 = 500;
/// As long as the longest pause that a provider may ask for: a bucket that nobody touches for longer is full.
const LIMITS_MAX_AGE: Duration = crate::turns::MAX_FREEZE;
/// Some 100 bytes each.
const LIMITS_MAX_MESSAGES: i64 = 500_000;
/// What the sandbox's page in the console can show.
const SANDBOX_MAX_MESSAGES: i64 = 1_000;

/// How long a message may be in work without an ack or progress before it is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages in work at once per lane; further ones wait. Messages that are held back by a nak with delay count too.
const MAX_ACK_PENDING: i64 = 2_000;
/// The same of notifications: those count too whose only delivery is being made, some hundreds in each dispatcher while a
/// provider hangs.
const MAX_FANOUT_PENDING: i64 = 20_000;
/// Pull requests that may wait per lane; the server's own default, written out so that a comparison sees it.
const MAX_WAITING: i64 = 512;
/// Without limit: our own attempt limit ends a delivery with a dead letter. A message on which the server gives up
/// first would stay in a work queue for ever, invisible to everybody.
const MAX_DELIVER: i64 = -1;

/// Backlogs at which `nats server check consumer` turns critical: several minutes of work of one dispatcher.
const UNPROCESSED_CRITICAL: u64 = 100_000;

/// One stream with its durable consumers.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// The stream.
    pub config: stream::Config,
    /// Its durable consumers.
    pub consumers: Vec<consumer::Config>,
}

/// The work stream of a channel, such as `WORK_SMS`.
#[must_use]
pub fn work_stream(channel: Channel) -> String {
    format!("WORK_{}", channel.as_str().to_ascii_uppercase())
}

/// The durable consumer of `INTAKE` for a priority, such as `fanout_high`.
#[must_use]
pub fn fanout_consumer(priority: Priority) -> String {
    format!("fanout_{priority}")
}

/// The durable consumer of each work stream for a priority, such as `deliver_high`.
#[must_use]
pub fn deliver_consumer(priority: Priority) -> String {
    format!("deliver_{priority}")
}

pub(super) fn all(region: &Region, options: &Options) -> Vec<StreamSpec> {
    let definition = Definition { region, options, subjects: Subjects::new(region) };
    let mut streams = vec![definition.intake(), definition.schedule()];
    streams.extend(Channel::ALL.into_iter().map(|channel| definition.work(channel)));
    streams.extend([
        definition.events(),
        definition.dead_letters(),
        definition.attempts(),
        definition.inbox(),
        definition.limits(),
        definition.state(),
    ]);
    if options.sandbox {
        streams.push(definition.sandbox());
    }
    if let Some(links) = &options.links {
        definition.link(links, &mut streams);
    }
    streams
}

pub(super) struct Definition<'a> {
    pub(super) region: &'a Region,
    pub(super) options: &'a Options,
    pub(super) subjects: Subjects,
}

impl Definition<'_> {
    fn intake(&self) -> StreamSpec {
        let lanes = Priority::ALL.into_iter().map(|priority| consumer::Config {
            max_ack_pending: MAX_FANOUT_PENDING,
            metadata: metadata::for_consumer(self.region, MAX_FANOUT_PENDING, UNPROCESSED_CRITICAL),
            ..self.lane(
                fanout_consumer(priority),
                format!("Fan-out of {priority} notifications"),
                self.subjects.intake_lane(priority),
            )
        });
        StreamSpec {
            consumers: lanes.collect(),
            config: stream::Config {
                retention: RetentionPolicy::Limits,
                discard: DiscardPolicy::New,
                max_age: self.options.intake_max_age,
                max_bytes: bytes(self.options.max_bytes.intake),
                allow_atomic_publish: true,
                ..self.stream(
                    INTAKE,
                    "Accepted notifications, done or not; deduplicates by id",
                    self.subjects.intake_all(),
                )
            },
        }
    }

    fn schedule(&self) -> StreamSpec {
        let due =
            self.lane(DUE_CONSUMER.to_owned(), "What has become due".to_owned(), self.subjects.due_all());
        StreamSpec {
            consumers: vec![due],
            config: stream::Config {
                subjects: vec![self.subjects.schedule_all(), self.subjects.due_all()],
                retention: RetentionPolicy::WorkQueue,
                // The server refuses schedules together with Discard New. Without a limit nothing is discarded.
                discard: DiscardPolicy::Old,
                allow_message_schedules: true,
                allow_message_ttl: true,
                allow_rollup: true,
                ..self.stream(SCHEDULE, "Messages that wait for their time", String::new())
            },
        }
    }

    fn work(&self, channel: Channel) -> StreamSpec {
        let lanes = Priority::ALL.into_iter().map(|priority| {
            self.lane(
                deliver_consumer(priority),
                format!("Delivery of {priority} messages by {channel}"),
                self.subjects.work_lane(channel, priority),
            )
        });
        let description = format!("Deliveries that wait for {channel}");
        StreamSpec {
            consumers: lanes.collect(),
            config: stream::Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                max_bytes: bytes(self.options.max_bytes.work),
                allow_atomic_publish: true,
                ..self.stream(&work_stream(channel), &description, self.subjects.work_channel(channel))
            },
        }
    }

    fn events(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                discard: DiscardPolicy::Old,
                max_age: self.options.events_max_age,
                max_bytes: bytes(self.options.max_bytes.events),
                allow_atomic_publish: true,
                ..self.stream(
                    EVENTS,
                    "What happened to notifications and deliveries",
                    self.subjects.event_all(),
                )
            },
        }
    }

    fn dead_letters(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                // A delivery ends only after its dead letter is stored; refusing keeps it queued, dropping the oldest
                // would lose one without a trace.
                discard: DiscardPolicy::New,
                max_age: self.options.dead_letters_max_age,
                max_bytes: bytes(self.options.max_bytes.dead_letters),
                ..self.stream(
                    DEAD_LETTERS,
                    "Deliveries that were given up, with reason and history",
                    self.subjects.dead_all(),
                )
            },
        }
    }

    fn attempts(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                // An intent that was dropped early would allow a second send.
                discard: DiscardPolicy::New,
                max_age: ATTEMPTS_MAX_AGE,
                max_messages_per_subject: 1,
                allow_message_ttl: true,
                max_bytes: bytes(self.options.max_bytes.attempts),
                ..self.stream(
                    ATTEMPTS,
                    "Intents to call a provider that must not be called twice",
                    self.subjects.attempt_all(),
                )
            },
        }
    }

    fn inbox(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                // As in a key-value bucket: a full stream refuses, while the limit per subject drops a recipient's
                // oldest item.
                discard: DiscardPolicy::New,
                max_age: self.options.inbox_max_age,
                max_bytes: bytes(self.options.max_bytes.inbox),
                max_messages_per_subject: INBOX_PER_SUBJECT,
                ..self.stream(INBOX, "Items and marks of the in-app inboxes", self.subjects.inbox_all())
            },
        }
    }

    fn state(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                // The settings that make a stream a key-value bucket for every NATS client.
                discard: DiscardPolicy::New,
                max_messages_per_subject: 1,
                allow_rollup: true,
                deny_delete: true,
                max_bytes: bytes(self.options.max_bytes.state),
                allow_message_ttl: true,
                subject_delete_marker_ttl: Some(self.options.delete_marker_ttl),
                ..self.stream(
                    &self.subjects.state_stream(),
                    "Recipients, categories, templates and API keys that this region wrote",
                    self.subjects.state_all(),
                )
            },
        }
    }

    fn limits(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                discard: DiscardPolicy::Old,
                max_age: LIMITS_MAX_AGE,
                max_messages: LIMITS_MAX_MESSAGES,
                max_messages_per_subject: 1,
                ..self.stream(
                    LIMITS,
                    "Rate limits that dispatchers share: when the next turn is",
                    self.subjects.limit_all(),
                )
            },
        }
    }

    fn sandbox(&self) -> StreamSpec {
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                storage: StorageType::Memory,
                discard: DiscardPolicy::Old,
                max_messages: SANDBOX_MAX_MESSAGES,
                ..self.stream(SANDBOX, "What the sandbox provider recorded", self.subjects.sandbox_all())
            },
        }
    }

    /// What all streams have in common. Every limit is explicit, so that a comparison with the server's answer needs no
    /// knowledge of its defaults.
    pub(super) fn stream(&self, name: &str, description: &str, subjects: String) -> stream::Config {
        stream::Config {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            subjects: vec![subjects],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            num_replicas: self.options.replicas,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            max_consumers: -1,
            no_ack: false,
            duplicate_window: self.options.duplicate_window,
            allow_direct: true,
            metadata: metadata::for_stream(self.region, self.options.replicas),
            ..stream::Config::default()
        }
    }

    fn lane(&self, name: String, description: String, filter: String) -> consumer::Config {
        consumer::Config {
            name: Some(name.clone()),
            durable_name: Some(name),
            description: Some(description),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            replay_policy: ReplayPolicy::Instant,
            ack_wait: ACK_WAIT,
            max_deliver: MAX_DELIVER,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            filter_subject: filter,
            metadata: metadata::for_consumer(self.region, MAX_ACK_PENDING, UNPROCESSED_CRITICAL),
            ..consumer::Config::default()
        }
    }
}

/// JetStream counts bytes in signed 64 bits.
pub(super) fn bytes(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn region() -> Region {
        "seoul-1".parse().unwrap()
    }

    #[test]
    fn every_stream_says_what_it_is_and_whose() {
        for spec in all(&region(), &Options::laptop()) {
            assert!(spec.config.description.is_some(), "{}", spec.config.name);
            assert_eq!(spec.config.metadata[metadata::REGION], "seoul-1");
            assert!(!spec.config.subjects.iter().any(String::is_empty), "{}", spec.config.name);
            for consumer in &spec.consumers {
                assert!(consumer.description.is_some());
                assert_eq!(consumer.metadata[metadata::REGION], "seoul-1");
            }
        }
    }

    #[test]
    fn names_are_unique_and_lanes_cover_all_priorities() {
        let streams = all(&region(), &Options::laptop());
        let names: BTreeSet<_> = streams.iter().map(|spec| spec.config.name.clone()).collect();
        assert_eq!(names.len(), streams.len());
        assert_eq!(streams.len(), 2 + Channel::ALL.len() + 6 + 1);
        for channel in Channel::ALL {
            let spec = streams.iter().find(|spec| spec.config.name == work_stream(channel)).unwrap();
            let filters: BTreeSet<_> = spec.consumers.iter().map(|c| c.filter_subject.clone()).collect();
            assert_eq!(filters.len(), Priority::ALL.len());
        }
    }

    #[test]
    fn the_sandbox_exists_only_on_request() {
        let without = all(&region(), &Options::default());
        assert!(without.iter().all(|spec| spec.config.name != SANDBOX));
        assert!(without.iter().all(|spec| spec.config.storage == StorageType::File));
    }
}
