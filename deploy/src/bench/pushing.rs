//! Pushes in a second: what one dispatcher hands to a server that speaks HTTP/2 over TLS as APNs and FCM do.
//!
//! The notifications are accepted before the dispatcher starts, so that neither accepting nor the load generator shares
//! the processors with it; it is counted from the first push to the last.

use std::collections::BTreeMap;
use std::path::Path;

use peal_common::channel::{Channel, ChannelChoice, Priority};
use serde::Serialize;
use serde_json::json;

use super::delivery::{self, DELIVERY_LIMIT, SETTLE_LIMIT};
use super::deployment::Deployment;
use super::process::Busy;
use super::seed;
use super::sink::Sink;
use super::statistics::median;

/// An RSA key that nobody trusts: making one takes long.
const RSA_KEY: &str = include_str!("../../../dispatcher/tests/keys/rsa-2048.pem");

/// Pushes through one provider.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// `apns` or `fcm`.
    pub channel: Channel,
    /// The median of the runs: pushes in a second.
    pub per_second: f64,
    /// What came in each run, timed from the first push.
    pub runs: Vec<delivery::Delivered>,
    /// Processors that each process kept busy in the last run.
    pub processors: BTreeMap<String, f64>,
}

/// The settings of both providers, whose server is the sink. Its certificate is written into `folder`.
///
/// # Errors
/// When a key can't be made or the file not be written.
pub fn settings(folder: &Path, sink: &Sink) -> anyhow::Result<String> {
    std::fs::create_dir_all(folder)?;
    let certificate = folder.join("sink.pem");
    std::fs::write(&certificate, sink.certificate())?;
    let (url, certificate) =
        (sink.pushes_url(), toml::Value::String(certificate.to_string_lossy().into_owned()));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem();
    let account = json!({
        "type": "service_account", "project_id": "bench", "private_key_id": "bench", "private_key": RSA_KEY,
        "client_email": "bench@example.com", "token_uri": format!("{url}/token"),
    });
    let text = |text: String| toml::Value::String(text);
    let (key, account) = (text(key), text(account.to_string()));
    Ok(format!(
        "[channels.apns]\nkey = {key}\nkey_id = \"BENCHKEY01\"\nteam_id = \"BENCHTEAM1\"\ntopic = \"com.example.bench\"\n\
         base_url = \"{url}\"\ntls_ca_file = {certificate}\n\n\
         [channels.fcm]\nservice_account = {account}\nbase_url = \"{url}\"\ntls_ca_file = {certificate}\n\n"
    ))
}

/// Measures pushes through one provider, `rounds` times.
///
/// # Errors
/// When a process fails or pushes do not come.
pub async fn measure(
    deployment: &mut Deployment,
    sink: &mut Sink,
    channel: Channel,
    people: u64,
    total: u64,
    rounds: usize,
) -> anyhow::Result<Pushed> {
    let (category, choice) = match channel {
        Channel::Apns => ("pushed-apns", ChannelChoice::Apns),
        _ => ("pushed-fcm", ChannelChoice::Fcm),
    };
    seed::category(deployment, category, choice).await?;
    deployment.settle(SETTLE_LIMIT).await?;
    let (mut runs, mut processors) = (Vec::with_capacity(rounds), BTreeMap::new());
    for round in 0..rounds {
        let series = format!("{channel}-{round}");
        let done = delivery::batched(deployment, &series, category, Priority::Normal, people, total).await?;
        deployment.settle(SETTLE_LIMIT).await?;
        deployment.start_dispatcher().await?;
        let mut pids = deployment.pids();
        pids.extend(sink.pid().map(|pid| ("sink".to_owned(), pid)));
        // It is at work when the first of them have come.
        sink.wait_for(&series, 1, DELIVERY_LIMIT).await?;
        let busy = Busy::start(pids);
        let waited = sink.wait_for(&series, done.accepted, DELIVERY_LIMIT).await;
        processors = busy.processors();
        let first_ns = sink.summary(&series).await?.first_ns;
        runs.push(delivery::collect(sink, &series, done.accepted, first_ns).await?);
        waited?;
        deployment.settle(SETTLE_LIMIT).await?;
        deployment.stop_dispatcher().await?;
    }
    let rates: Vec<_> = runs.iter().map(|run| run.per_second).collect();
    Ok(Pushed { channel, per_second: median(&rates), runs, processors })
}
