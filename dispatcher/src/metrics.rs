//! Every metric of the dispatcher, in one place.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_common::outcome::Outcome;
use peal_nats::mirror::{SEQUENCE_METRIC, SEQUENCE_METRIC_MEANS};

/// Events published, by type and channel.
const EVENTS: &str = "peal_dispatcher_events_total";
/// Provider calls, by channel, provider and outcome.
const ATTEMPTS: &str = "peal_dispatcher_attempts_total";

/// Whether the circuit of an account is open, by channel and provider.
const CIRCUITS: &str = "peal_dispatcher_circuit_open";
const CIRCUITS_MEANS: &str = "1 while an account at a provider is left alone because it is out of order";

/// Counts an event.
pub fn event(kind: EventType, channel: Option<Channel>) {
    counter!(EVENTS, "type" => kind.as_str(), "channel" => channel.map_or("none", Channel::as_str))
        .increment(1);
}

/// Counts a provider call.
pub fn attempt(channel: Channel, provider: &Arc<str>, outcome: &Outcome) {
    counter!(ATTEMPTS, "channel" => channel.as_str(), "provider" => Arc::clone(provider), "outcome" => outcome.name())
        .increment(1);
}

/// The lines that say of each account whether its circuit is open, as Prometheus reads them ("Text-based format"). The recorder
/// would go on telling of accounts that are there no more.
pub fn circuits<'a>(accounts: impl Iterator<Item = (Channel, &'a str, bool)>) -> String {
    let mut lines = format!("# HELP {CIRCUITS} {CIRCUITS_MEANS}\n# TYPE {CIRCUITS} gauge\n");
    for (channel, provider, is_open) in accounts {
        // A name of the settings may have any character.
        let provider = provider.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let value = u8::from(is_open);
        lines += &format!("{CIRCUITS}{{channel=\"{channel}\",provider=\"{provider}\"}} {value}\n");
    }
    lines
}

/// Says how much of the region's state the mirror has.
pub fn state_sequence(position: u64) {
    gauge!(SEQUENCE_METRIC).set(position as f64);
}

/// The process's recorder, installed and described at the first call.
///
/// # Errors
/// When somebody else's recorder is installed in this process.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new().install_recorder()?;
    metrics::describe_counter!(EVENTS, "Events published");
    metrics::describe_counter!(ATTEMPTS, "Calls of providers by outcome");
    metrics::describe_gauge!(SEQUENCE_METRIC, SEQUENCE_METRIC_MEANS);
    *installed = Some(handle.clone());
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuits_are_told_as_prometheus_reads_them() {
        let all = [(Channel::Telegram, "telegram", true), (Channel::Sms, "twilio:a\"b\\c\nd", false)];
        let text = circuits(all.into_iter());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "# TYPE peal_dispatcher_circuit_open gauge");
        assert_eq!(
            lines[2..],
            [
                r#"peal_dispatcher_circuit_open{channel="telegram",provider="telegram"} 1"#,
                r#"peal_dispatcher_circuit_open{channel="sms",provider="twilio:a\"b\\c\nd"} 0"#,
            ]
        );
    }
}
