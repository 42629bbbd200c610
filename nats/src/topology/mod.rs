//! The streams and consumers of a region, and of the hub: one definition, compared with what a server has, applied and checked.
//!
//! [`Topology::for_region`] is data: a list of [`StreamSpec`]s made of async-nats configurations. [`Current::read`]
//! fetches what a server has, [`plan`] compares the two without I/O, [`apply`] carries a [`Plan`] out, and [`check`]
//! adds the facts that no configuration shows, such as the server's version and replicas that lag.
//!
//! What Peal owns bears the metadata [`metadata::REGION`]. Streams and consumers without it are left alone, and so are
//! metadata keys of other owners and the settings named in [`diff`].

mod apply;
mod change;
mod check;
mod current;
pub mod diff;
mod links;
pub mod metadata;
mod options;
mod streams;

pub use apply::{ApplyError, apply};
pub use change::{Change, Danger, FieldChange, Kind, Plan, Target};
pub use check::{CheckError, Finding, Report, check};
pub use current::{Current, CurrentStream, ReadError};
pub use diff::plan;
pub use links::{ALL_STATE, OTHERS_ACCEPTED, OTHERS_STATE, STATE_TO, state_to};
pub use options::{Links, MaxBytes, Options};
pub use streams::{
    ATTEMPTS, DEAD_LETTERS, DUE_CONSUMER, EVENTS, INBOX, INTAKE, LIMITS, SANDBOX, SCHEDULE, StreamSpec,
    deliver_consumer, fanout_consumer, work_stream,
};

use async_nats::jetstream::stream::StorageType;

use crate::subjects::Region;

/// Everything that JetStream holds for one region, or for the hub.
#[derive(Debug, Clone)]
pub struct Topology {
    /// The region or the hub, which is also the JetStream domain.
    pub region: Region,
    /// The streams, in the order in which they are created and listed.
    pub streams: Vec<StreamSpec>,
}

impl Topology {
    /// The streams of `region` with their durable consumers.
    #[must_use]
    pub fn for_region(region: &Region, options: &Options) -> Self {
        Topology { region: region.clone(), streams: streams::all(region, options) }
    }

    /// What the hub `hub` gathers from `regions` and hands on to them.
    #[must_use]
    pub fn for_hub(hub: &Region, regions: &[Region], options: &Options) -> Self {
        Topology { region: hub.clone(), streams: links::hub(hub, regions, options) }
    }

    /// What the streams reserve on disk, in bytes: a server that may take less refuses the last of them.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let on_disk = self.streams.iter().filter(|spec| spec.config.storage == StorageType::File);
        on_disk.filter_map(|spec| u64::try_from(spec.config.max_bytes).ok()).sum()
    }

    /// The stream called `name`.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&StreamSpec> {
        self.streams.iter().find(|spec| spec.config.name == name)
    }
}
