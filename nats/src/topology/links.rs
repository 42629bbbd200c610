//! What links regions: the hub gathers what each region wrote, and each region gets back what the others wrote.
//!
//! Streams source from each other across leaf connections through durable push consumers that the topology of the
//! *origin* defines (ADR-60). With those a link that heals delivers again within seconds; the consumers that the server
//! makes by itself took 30 to 40 s (tried with 2.15.1). Which messages go is the consumer's filter: the server takes no
//! filter of a source that names its consumer.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, External, Source, StreamConsumerSource};

use super::metadata;
use super::streams::{Definition, EVENTS, INTAKE, StreamSpec, bytes};
use super::{Links, Options};
use crate::subjects::{Region, Subjects};

/// The hub's stream with the state that every region wrote.
pub const ALL_STATE: &str = "STATE";
/// A region's stream with the state that the other regions wrote, as the hub handed it on.
pub const OTHERS_STATE: &str = "STATE_OTHERS";

/// A region's stream with the ids that the other regions accepted: the headers of their INTAKE, no content.
pub const OTHERS_ACCEPTED: &str = "ACCEPTED_OTHERS";

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

pub(super) fn hub(hub: &Region, regions: &[Region], options: &Options) -> Vec<StreamSpec> {
    let hub = Definition { region: hub, options, subjects: Subjects::new(hub) };
    let to_regions = |stream: &str, subjects: fn(&Subjects) -> String| {
        let to_region = |region: &Region| {
            let others = regions.iter().filter(|other| *other != region);
            let filters: Vec<_> = others.map(|other| subjects(&Subjects::new(other))).collect();
            (!filters.is_empty()).then(|| hub.handing_on(stream, region, filters))
        };
        regions.iter().filter_map(to_region).collect::<Vec<_>>()
    };
    let count = regions.len().max(1) as u64;
    vec![
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
            consumers: to_regions(INTAKE, Subjects::intake_all)
                .into_iter()
                .map(|consumer| consumer::Config { headers_only: true, ..consumer })
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
            consumers: to_regions(ALL_STATE, Subjects::state_all),
            config: stream::Config {
                max_bytes: gathered_bytes(options.max_bytes.state, count),
                ..hub.gathered_state(
                    ALL_STATE,
                    "State that all regions wrote",
                    regions
                        .iter()
                        .map(|region| hub.source(region, &Subjects::new(region).state_stream()))
                        .collect(),
                )
            },
        },
    ]
}

/// Room for what `regions` regions write: half as much again, since each message also says where it came from.
fn gathered_bytes(of_one: u64, regions: u64) -> i64 {
    bytes(of_one.saturating_mul(regions).saturating_mul(3) / 2)
}

impl Definition<'_> {
    /// Adds to a region's streams what links it with the hub and the other regions.
    pub(super) fn link(&self, links: &Links, streams: &mut Vec<StreamSpec>) {
        let handed_on = [
            (INTAKE.to_owned(), vec![self.subjects.intake_unpinned()]),
            (EVENTS.to_owned(), vec![self.subjects.event_unpinned()]),
            (self.subjects.state_stream(), self.subjects.state_unpinned()),
        ];
        for (name, filters) in handed_on {
            let consumer = self.handing_on(&name, &links.hub, filters);
            if let Some(spec) = streams.iter_mut().find(|spec| spec.config.name == name) {
                spec.consumers.push(consumer);
            }
        }
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
                    vec![self.source(&links.hub, ALL_STATE)],
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

    /// A stream that nobody publishes to: it holds what its sources hold.
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
    /// forget recipients without a trace.
    fn gathered_state(&self, name: &str, description: &str, sources: Vec<Source>) -> stream::Config {
        stream::Config {
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
            for source in topology.streams.iter().flat_map(|spec| spec.config.sources.iter().flatten()) {
                let prefix = &source.external.as_ref().unwrap().api_prefix;
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
        let to_us = &hub.stream(ALL_STATE).unwrap().consumers[1];
        assert_eq!(to_us.filter_subjects, ["$KV.state_eu.>", "$KV.state_ap.>"]);
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
        let state = filters("KV_state_eu");
        assert!(state.contains(&"$KV.state_eu.recipient.>".to_owned()));
        assert!(state.iter().all(|filter| !filter.contains("pinned") && filter.starts_with("$KV.state_eu.")));
    }

    #[test]
    fn a_region_alone_has_no_links() {
        let alone = Topology::for_region(&"eu".parse().unwrap(), &Options::laptop());
        assert!(alone.stream(OTHERS_STATE).is_none());
        assert!(alone.stream(EVENTS).unwrap().consumers.is_empty());
        assert_eq!(alone.stream(INTAKE).unwrap().consumers.len(), 4);
    }
}
