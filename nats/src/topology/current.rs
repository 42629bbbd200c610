//! What a server has.

use std::collections::BTreeMap;

use async_nats::jetstream::{Context, consumer, stream};
use futures_util::TryStreamExt;

use super::{Topology, metadata};

/// The streams of a server that matter to a topology: those that it names and those that bear its region.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// By name.
    pub streams: BTreeMap<String, CurrentStream>,
}

/// A stream as the server has it.
#[derive(Debug, Clone, Default)]
pub struct CurrentStream {
    /// Its configuration.
    pub config: stream::Config,
    /// The configurations of all its consumers, by name; ephemeral ones too.
    pub consumers: BTreeMap<String, consumer::Config>,
    /// Leader and replicas; `None` on a server without a cluster.
    pub peers: Option<stream::ClusterInfo>,
}

/// The server did not say what it has.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The list of streams failed.
    #[error("cannot list the streams of the server: is JetStream enabled, and may this user use it?")]
    Streams(#[source] async_nats::Error),
    /// The list of a stream's consumers failed.
    #[error("cannot list the consumers of stream {stream}")]
    Consumers {
        /// The stream's name.
        stream: String,
        /// What async-nats says.
        #[source]
        source: async_nats::Error,
    },
}

impl Current {
    /// Reads the streams that `topology` names or that bear its region, with their consumers.
    ///
    /// # Errors
    /// [`ReadError`] when the server does not answer in time, has no JetStream, or refuses this user.
    pub async fn read(jetstream: &Context, topology: &Topology) -> Result<Self, ReadError> {
        let infos: Vec<stream::Info> =
            jetstream.streams().try_collect().await.map_err(|e| ReadError::Streams(e.into()))?;
        let mut streams = BTreeMap::new();
        for info in infos {
            let ours = info.config.metadata.get(metadata::REGION).map(String::as_str)
                == Some(topology.region.as_str());
            if !ours && topology.stream(&info.config.name).is_none() {
                continue;
            }
            let name = info.config.name.clone();
            let consumers = consumers(jetstream, &name).await?;
            streams.insert(name, CurrentStream { config: info.config, consumers, peers: info.cluster });
        }
        Ok(Current { streams })
    }
}

async fn consumers(
    jetstream: &Context,
    stream: &str,
) -> Result<BTreeMap<String, consumer::Config>, ReadError> {
    let failed = |source| ReadError::Consumers { stream: stream.to_owned(), source };
    let handle = jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
    let infos: Vec<consumer::Info> = handle.consumers().try_collect().await.map_err(|e| failed(e.into()))?;
    Ok(infos.into_iter().map(|info| (info.name, info.config)).collect())
}
