//! What links regions: the hub gathers what each region wrote, and each region gets back what the others wrote.
//!
//! Streams source from each other across leaf connections through durable push consumers that the topology of the
//! *origin* defines (ADR-60). With those a link that heals delivers again within seconds; the consumers that the server
//! makes by itself took 30 to 40 s (tried with 2.15.1). Which messages go is the consumer's filter: the server takes no
//! filter of a source that names its consumer.
//!
//! Such a consumer acknowledges everything up to a message, and a message that is replaced while it is on its way counts
//! as acknowledged (2.15.1). In a bucket, where a key that is written again replaces what it was, a cut link would so
//! lose what other keys said just before. State is therefore handed on from a work queue, which a message leaves when the
//! other side has it and not sooner; within one domain the server's own consumers, which acknowledge nothing, fill it.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{
    self, DiscardPolicy, External, RetentionPolicy, Source, StreamConsumerSource, SubjectTransform,
};

use super::metadata;
use super::streams::{Definition, EVENTS, INTAKE, StreamSpec, bytes};
use super::{Links, Options};
use crate::subjects::{Region, Subjects};

/// The hub's stream with the state that every region wrote.
pub const ALL_STATE: &str = "STATE";
/// A region's stream with the state that the other regions wrote, as the hub handed it on or gateways brought it.
pub const OTHERS_STATE: &str = "STATE_OTHERS";

/// A region's stream with the ids that the other regions accepted: the headers of their INTAKE, no content.
pub const OTHERS_ACCEPTED: &str = "ACCEPTED_OTHERS";

/// Room for state on its way to one domain. What is beyond waits in the bucket, where only the last of each key counts.
const STATE_ON_ITS_WAY: u64 = 64 << 20;

/// How long ids are handed on: an id is recognised for 24 hours, and a region may be cut off meanwhile.
const ACCEPTED_MAX_AGE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Messages on their way over a link before the other side has confirmed any: at 500 bytes each, what a link of
/// 100 Mbit/s and 300 ms there and back holds.
const MAX_ON_THE_WAY: i64 = 8_000;
/// Without limit: what the other side has not confirmed is sent again once the link is back.
const MAX_DELIVER: i64 = -1;
/// What the server requires of a consumer that acknowledges by flow control.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(1);
/// Messages that wait for a link at which `nats server check consumer` turns critical.
const WAITING_CRITICAL: u64 = 1_000_000;
/// The same of state: well below what fits into [`STATE_ON_ITS_WAY`].
const STATE_CRITICAL: u64 = 50_000;

/// How the streams begin that [`state_to`] names.
pub const STATE_TO: &str = "STATE_TO_";

/// The stream with the state that is on its way to the domain `to`, such as `STATE_TO_hub`.
#[must_use]
pub fn state_to(to: &Region) -> String {
    format!("{STATE_TO}{to}")
}

pub(super) fn hub(hub: &Region, regions: &[Region], options: &Options) -> Vec<StreamSpec> {
    let hub = Definition { region: hub, options, subjects: Subjects::new(hub) };
    let others = |region: &Region| -> Vec<Subjects> {
        regions.iter().filter(|other| *other != region).map(Subjects::new).collect()
    };
    let told = || regions.iter().filter(|region| !others(region).is_empty());
    let count = regions.len().max(1) as u64;
    let mut streams = vec![
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                discard: DiscardPolicy::Old,
                max_age: options.events_max_age,
                max_bytes: bytes(options.max_bytes.events.saturating_mul(count)),
                ..hub.gathered(
                    EVENTS,
                    "What happened in all regions",
                    regions.iter().map(|region| hub.source(region, EVENTS)).collect(),
                )
            },
        },
        StreamSpec {
            consumers: told()
                .map(|region| {
                    let filters = others(region).iter().map(Subjects::intake_all).collect();
                    consumer::Config { headers_only: true, ..hub.handing_on(INTAKE, region, filters) }
                })
                .collect(),
            config: stream::Config {
                discard: DiscardPolicy::Old,
                max_age: options.intake_max_age,
                max_bytes: gathered_bytes(options.max_bytes.intake, count),
                ..hub.gathered(
                    INTAKE,
                    "Notifications that all regions accepted, for a region that takes another one over",
                    regions.iter().map(|region| hub.source(region, INTAKE)).collect(),
                )
            },
        },
        StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                max_bytes: gathered_bytes(options.max_bytes.state, count),
                ..hub.gathered_state(
                    ALL_STATE,
                    "State that all regions wrote",
                    regions.iter().map(|region| hub.source(region, &state_to(hub.region))).collect(),
                )
            },
        },
    ];
    // A source for each region: one that joins brings its own, and what the others sent is not sent again.
    streams.extend(told().map(|region| {
        let taken = others(region).iter().map(|other| taken(ALL_STATE, vec![other.state_all()])).collect();
        hub.state_on_its_way(region, taken)
    }));
    streams
}

/// What a stream takes from another one of its domain.
fn taken(stream: &str, filters: Vec<String>) -> Source {
    // Transforms that change nothing: the server knows no other way to name several filters.
    let same = |filter: String| SubjectTransform { source: filter.clone(), destination: filter };
    Source {
        name: stream.to_owned(),
        // Otherwise a stream that is empty and forgot where it stood begins with what is written now.
        start_sequence: Some(1),
        subject_transforms: filters.into_iter().map(same).collect(),
        ..Source::default()
    }
}

/// Room for what `regions` regions write: half as much again, since each message also says where it came from.
fn gathered_bytes(of_one: u64, regions: u64) -> i64 {
    bytes(of_one.saturating_mul(regions).saturating_mul(3) / 2)
}

impl Definition<'_> {
    /// Adds to a region's streams what links it with the hub and the other regions.
    pub(super) fn link(&self, links: &Links, streams: &mut Vec<StreamSpec>) {
        let handed_on = [(INTAKE, self.subjects.intake_unpinned()), (EVENTS, self.subjects.event_unpinned())];
        for (name, filter) in handed_on {
            let consumer = self.handing_on(name, &links.hub, vec![filter]);
            if let Some(spec) = streams.iter_mut().find(|spec| spec.config.name == name) {
                spec.consumers.push(consumer);
            }
        }
        let unpinned = taken(&self.subjects.state_stream(), self.subjects.state_unpinned());
        streams.push(self.state_on_its_way(&links.hub, vec![unpinned]));
        if links.others.is_empty() {
            return;
        }
        streams.push(StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                max_bytes: gathered_bytes(self.options.max_bytes.state, links.others.len() as u64),
                ..self.gathered_state(
                    OTHERS_STATE,
                    "State that the other regions wrote",
                    vec![self.source(&links.hub, &state_to(self.region))],
                )
            },
        });
        streams.push(StreamSpec {
            consumers: Vec::new(),
            config: stream::Config {
                // The oldest may go: ids are recognised for a day.
                discard: DiscardPolicy::Old,
                max_age: ACCEPTED_MAX_AGE,
                max_bytes: bytes(self.options.max_bytes.events.saturating_mul(links.others.len() as u64)),
                ..self.gathered(
                    OTHERS_ACCEPTED,
                    "Ids that the other regions accepted, without content",
                    vec![self.source(&links.hub, INTAKE)],
                )
            },
        });
    }

    /// State on its way to the domain `to`: in the order in which it was written, until `to` has it.
    fn state_on_its_way(&self, to: &Region, taken: Vec<Source>) -> StreamSpec {
        let name = state_to(to);
        let metadata = metadata::for_consumer(self.region, MAX_ON_THE_WAY, STATE_CRITICAL);
        StreamSpec {
            consumers: vec![consumer::Config { metadata, ..self.handing_on(&name, to, Vec::new()) }],
            config: stream::Config {
                retention: RetentionPolicy::WorkQueue,
                // A full one takes up again where it stopped once there is room.
                discard: DiscardPolicy::New,
                max_bytes: bytes(STATE_ON_ITS_WAY),
                ..self.gathered(&name, &format!("State on its way to {to}"), taken)
            },
        }
    }

    /// The consumer of `stream` from which the domain `to` sources.
    fn handing_on(&self, stream: &str, to: &Region, filter_subjects: Vec<String>) -> consumer::Config {
        consumer::Config {
            name: Some(to.to_string()),
            durable_name: Some(to.to_string()),
            description: Some(format!("Hands on to {to}")),
            deliver_subject: Some(self.subjects.link(stream, to)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::FlowControl,
            replay_policy: ReplayPolicy::Instant,
            flow_control: true,
            idle_heartbeat: IDLE_HEARTBEAT,
            max_deliver: MAX_DELIVER,
            max_ack_pending: MAX_ON_THE_WAY,
            filter_subjects,
            metadata: metadata::for_consumer(self.region, MAX_ON_THE_WAY, WAITING_CRITICAL),
            ..consumer::Config::default()
        }
    }

    /// The other end of [`handing_on`](Self::handing_on): what this domain takes from `stream` of the domain `from`.
    fn source(&self, from: &Region, stream: &str) -> Source {
        let deliver = Subjects::new(from).link(stream, self.region);
        Source {
            name: stream.to_owned(),
            external: Some(External { api_prefix: format!("$JS.{from}.API"), delivery_prefix: None }),
            consumer: Some(StreamConsumerSource::new(self.region.to_string(), deliver)),
            ..Source::default()
        }
    }

    /// A stream that holds what its sources hold.
    fn gathered(&self, name: &str, description: &str, sources: Vec<Source>) -> stream::Config {
        stream::Config {
            subjects: Vec::new(),
            sources: Some(sources),
            // Two regions may well use the same ids for what is not the same.
            duplicate_window: Duration::ZERO,
            ..self.stream(name, description, String::new())
        }
    }

    /// The last message of each key. A full stream stops taking more and says so, where dropping the oldest would
    /// forget recipients without a trace. What does not come out of the sources is brought by gateways
    /// ([`crate::handed_on`]).
    fn gathered_state(&self, name: &str, description: &str, sources: Vec<Source>) -> stream::Config {
        let (source, destination) = self.subjects.brought_back();
        stream::Config {
            subjects: vec![self.subjects.brought_all()],
            subject_transform: Some(SubjectTransform { source, destination }),
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            allow_message_ttl: true,
            ..self.gathered(name, description, sources)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Topology};
    use super::*;

    fn regions() -> Vec<Region> {
        ["eu", "us", "ap"].map(|name| name.parse().unwrap()).to_vec()
    }

    #[test]
    fn every_source_names_a_consumer_that_its_origin_defines() {
        let hub: Region = "hub".parse().unwrap();
        let mut topologies = vec![Topology::for_hub(&hub, &regions(), &Options::laptop())];
        for region in regions() {
            let others = regions().into_iter().filter(|other| *other != region).collect();
            let links = Some(Links { hub: hub.clone(), others });
            topologies.push(Topology::for_region(&region, &Options { links, ..Options::laptop() }));
        }
        let mut sources = 0;
        for topology in &topologies {
            let all = topology.streams.iter().flat_map(|spec| spec.config.sources.iter().flatten());
            for (source, external) in all.filter_map(|source| Some((source, source.external.as_ref()?))) {
                let prefix = &external.api_prefix;
                let origin =
                    topologies.iter().find(|origin| *prefix == format!("$JS.{}.API", origin.region)).unwrap();
                let named = source.consumer.as_ref().unwrap();
                let consumers = &origin.stream(&source.name).unwrap().consumers;
                let found =
                    consumers.iter().find(|found| found.durable_name.as_ref() == Some(&named.name)).unwrap();
                assert_eq!(found.deliver_subject.as_ref(), Some(&named.deliver_subject));
                sources += 1;
            }
        }
        assert_eq!(sources, 3 * 3 + 3 * 2);
    }

    #[test]
    fn a_region_gets_what_the_others_wrote_and_not_its_own() {
        let hub = Topology::for_hub(&"hub".parse().unwrap(), &regions(), &Options::laptop());
        let to_us = hub.stream("STATE_TO_us").unwrap().config.sources.as_ref().unwrap();
        let taken: Vec<_> = to_us.iter().map(|source| &source.subject_transforms[0].source).collect();
        assert_eq!(taken, ["$KV.state_eu.>", "$KV.state_ap.>"]);
        let ids_to_us = &hub.stream(INTAKE).unwrap().consumers[1];
        assert_eq!(ids_to_us.filter_subjects, ["peal.eu.intake.>", "peal.ap.intake.>"]);
        assert!(ids_to_us.headers_only, "content of another region is of no use here");
    }

    #[test]
    fn what_is_pinned_is_not_handed_on() {
        let links = Some(Links { hub: "hub".parse().unwrap(), others: regions()[1..].to_vec() });
        let eu = Topology::for_region(&regions()[0], &Options { links, ..Options::laptop() });
        let filters = |stream: &str| {
            let consumers = &eu.stream(stream).unwrap().consumers;
            let to_hub = consumers.iter().find(|consumer| consumer.name.as_deref() == Some("hub"));
            to_hub.unwrap().filter_subjects.clone()
        };
        assert_eq!(filters(INTAKE), ["peal.eu.intake.*.*"]);
        assert_eq!(filters(EVENTS), ["peal.eu.event.*.*.*"]);
        let state = &eu.stream("STATE_TO_hub").unwrap().config.sources.as_ref().unwrap()[0];
        let state: Vec<_> = state.subject_transforms.iter().map(|same| same.source.clone()).collect();
        assert!(state.contains(&"$KV.state_eu.recipient.>".to_owned()));
        assert!(state.iter().all(|filter| !filter.contains("pinned") && filter.starts_with("$KV.state_eu.")));
    }

    /// What is replaced on its way would count as acknowledged, with everything before it.
    #[test]
    fn nothing_that_is_replaced_is_handed_on() {
        let links = Links { hub: "hub".parse().unwrap(), others: regions()[1..].to_vec() };
        let options = Options { links: Some(links), ..Options::laptop() };
        let topologies = [
            Topology::for_hub(&"hub".parse().unwrap(), &regions(), &options),
            Topology::for_region(&regions()[0], &options),
        ];
        let mut found = 0;
        for spec in topologies.iter().flat_map(|topology| &topology.streams) {
            for _ in spec.consumers.iter().filter(|consumer| consumer.deliver_subject.is_some()) {
                assert_eq!(spec.config.max_messages_per_subject, -1, "{}", spec.config.name);
                found += 1;
            }
        }
        assert_eq!(found, 2 * 3 + 3);
    }

    #[test]
    fn a_region_alone_has_no_links() {
        let alone = Topology::for_region(&"eu".parse().unwrap(), &Options::laptop());
        assert!(alone.stream(OTHERS_STATE).is_none());
        assert!(alone.stream(EVENTS).unwrap().consumers.is_empty());
        assert_eq!(alone.stream(INTAKE).unwrap().consumers.len(), 4);
    }
}
