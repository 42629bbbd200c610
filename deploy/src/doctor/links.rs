//! The link with the other regions: whether the hub answers, and what waits for it.

use std::time::Duration;

use bytes::Bytes;
use peal_common::settings::Settings;
use peal_nats::connect::Connection;
use peal_nats::inspect::StreamFacts;

use super::Check;
use super::server_page::ServerPages;

/// How long the hub may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A link delivers within seconds; so much that waits means that it does not.
const WARN_WAITING: u64 = 10_000;
/// The servers exchange a sign of life every second.
const SILENT: Duration = Duration::from_secs(15);
/// The switch of nats-server that puts the domain into the subjects of acknowledgements.
const ACKS_BY_DOMAIN: &str = "js_ack_fc_v2";

/// Looks at the link of a region, or of the hub. Nothing without a hub.
pub async fn links(settings: &Settings, connection: &Connection) -> Vec<Check> {
    let Some(hub) = &settings.topology.hub else { return Vec::new() };
    let streams = match connection.stream_facts().await {
        Ok(streams) => streams,
        Err(error) => return vec![Check::fail("links", error.to_string(), "see the server's log")],
    };
    let mut checks = vec![sources(&streams)];
    if !settings.is_hub() {
        let answers = connection.ask(format!("$JS.{hub}.API.INFO"), Bytes::new(), ANSWER_LIMIT).await.is_ok();
        checks.push(hub_check(hub.as_str(), answers, waiting(&streams)));
    }
    checks
}

/// Whether the servers keep acknowledgements within their domain. Nothing without a hub.
pub fn acknowledgements(settings: &Settings, pages: &ServerPages) -> Option<Check> {
    settings.topology.hub.as_ref()?;
    Some(judge(pages.have_switched_on(ACKS_BY_DOMAIN)))
}

fn judge(by_domain: Option<bool>) -> Check {
    let name = "acknowledgements";
    match by_domain {
        Some(true) => Check::ok(name, "they name their domain and stay in it"),
        Some(false) => Check::fail(
            name,
            "they cross the links: what one region settles can vanish from another one's queue",
            format!(
                "write `feature_flags {{ {ACKS_BY_DOMAIN}: true }}` into the configuration of every server of the hub and of \
                 all regions, and restart them one after another"
            ),
        ),
        None => Check::warn(
            name,
            "whether they stay in their domain is unknown",
            "name the server's monitoring page with --monitor http://host:8222",
        ),
    }
}

/// What is handed on and has not been confirmed.
fn waiting(streams: &[StreamFacts]) -> u64 {
    let handed_on = streams.iter().flat_map(|stream| &stream.consumers).filter(|consumer| consumer.pushes);
    handed_on.map(|consumer| consumer.pending + consumer.unacknowledged as u64).sum()
}

fn hub_check(hub: &str, answers: bool, waiting: u64) -> Check {
    let found = format!("{waiting} messages wait for {hub}");
    match answers {
        false => Check::warn(
            "hub",
            format!("{hub} does not answer; {found}, and this region goes on by itself"),
            "look at the hub's servers and at the leafnodes block of this region's",
        ),
        true if waiting > WARN_WAITING => {
            Check::warn("hub", format!("{hub} answers; {found}"), "the link is too slow, or has just healed")
        }
        true => Check::ok("hub", format!("{hub} answers; {found}")),
    }
}

fn sources(streams: &[StreamFacts]) -> Check {
    let all: Vec<_> =
        streams.iter().flat_map(|stream| stream.sources.iter().map(move |source| (stream, source))).collect();
    let behind: u64 = all.iter().map(|(_, source)| source.lag).sum();
    let silent: Vec<_> = all
        .iter()
        .filter(|(_, source)| source.silent_for.is_none_or(|silence| silence > SILENT))
        .map(|(stream, source)| format!("{} from {}", stream.name, source.from))
        .collect();
    let found = format!("{} sources, {behind} messages behind", all.len());
    if silent.is_empty() && behind > WARN_WAITING {
        let advice = "a link is too slow for what goes over it, or has just healed: look again in a minute";
        return Check::warn("links", found, advice);
    }
    if silent.is_empty() {
        return Check::ok("links", found);
    }
    Check::warn(
        "links",
        format!("{found}; nothing is heard of {}", silent.join(", ")),
        "those regions are cut off, or their topology has not been applied",
    )
}

#[cfg(test)]
mod tests {
    use peal_nats::inspect::SourceFacts;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_hub_that_is_away_is_no_failure_of_the_region() {
        assert_eq!(hub_check("hub", true, 3).status, Status::Ok);
        assert_eq!(hub_check("hub", true, 1_000_000).status, Status::Warn);
        assert_eq!(hub_check("hub", false, 0).status, Status::Warn);
    }

    #[test]
    fn acknowledgements_that_cross_the_links_are_a_failure() {
        assert_eq!(judge(Some(true)).status, Status::Ok);
        assert_eq!(judge(Some(false)).status, Status::Fail);
        assert!(judge(Some(false)).advice.unwrap().contains("feature_flags { js_ack_fc_v2: true }"));
        assert_eq!(judge(None).status, Status::Warn);
    }

    #[test]
    fn a_source_that_is_silent_or_far_behind_is_told() {
        let source = |from: &str, silent_for| SourceFacts { from: from.to_owned(), lag: 2, silent_for };
        let late = |lag| SourceFacts { from: "eu".to_owned(), lag, silent_for: Some(Duration::from_secs(1)) };
        let heard = Some(Duration::from_secs(1));
        let stream = |sources| StreamFacts { name: "EVENTS".to_owned(), sources, ..StreamFacts::default() };
        let found = sources(&[stream(vec![source("eu", heard), source("us", None)])]);
        assert_eq!(found.status, Status::Warn);
        assert!(
            found.found.contains("4 messages behind") && found.found.contains("EVENTS from us"),
            "{found:?}"
        );
        assert_eq!(sources(&[stream(vec![source("eu", heard)])]).status, Status::Ok);
        assert_eq!(sources(&[stream(vec![late(WARN_WAITING)])]).status, Status::Ok);
        assert_eq!(sources(&[stream(vec![late(WARN_WAITING + 1)])]).status, Status::Warn);
    }
}
