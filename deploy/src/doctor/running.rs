//! The gateways and dispatchers of all regions: whether they answer, and whether they are of one version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peal_common::settings::Settings;
use peal_nats::connect::Connection;
use peal_nats::service::Instance;

use super::Check;

const NAME: &str = "running";
/// How long they are waited for: longer than the way around the earth and back.
const LIMIT: Duration = Duration::from_secs(1);
/// What a region needs, as it is called among NATS micro services.
const PROGRAMS: [&str; 2] = ["peal-gateway", "peal-dispatcher"];

/// Asks who is there, in this region and in all that are linked with it.
pub async fn running(settings: &Settings, connection: &Connection) -> Check {
    let mut regions: BTreeSet<_> = settings.topology.regions.iter().map(ToString::to_string).collect();
    if !settings.is_hub() {
        regions.insert(settings.region.name.to_string());
    }
    match connection.instances(LIMIT).await {
        Ok(instances) => judge(&regions, &instances),
        Err(error) => Check::warn(NAME, error.to_string(), "see the server's log"),
    }
}

fn judge(regions: &BTreeSet<String>, instances: &[Instance]) -> Check {
    let mut by_version = BTreeMap::<&str, BTreeMap<String, usize>>::new();
    let mut missing: BTreeSet<_> =
        regions.iter().flat_map(|region| PROGRAMS.map(|program| format!("{program} of {region}"))).collect();
    for instance in instances.iter().filter(|instance| PROGRAMS.contains(&instance.name.as_str())) {
        let Some(region) = instance.metadata.get("region") else { continue };
        let who = format!("{} of {region}", instance.name);
        missing.remove(&who);
        *by_version.entry(&instance.version).or_default().entry(who).or_default() += 1;
    }
    let told: Vec<_> = by_version
        .iter()
        .map(|(version, who)| {
            let who: Vec<_> = who
                .iter()
                .map(|(who, count)| if *count == 1 { who.clone() } else { format!("{count} {who}") })
                .collect();
            format!("{version}: {}", who.join(", "))
        })
        .collect();
    let mut found = if told.is_empty() { "nobody answers".to_owned() } else { told.join("; ") };
    if !missing.is_empty() {
        let missing: Vec<_> = missing.into_iter().collect();
        if !told.is_empty() {
            found = format!("{found}; nothing is heard of {}", missing.join(", "));
        }
        let advice = "start them, or look at the links: a region that is cut off is not heard";
        return Check::warn(NAME, found, advice);
    }
    if by_version.len() > 1 {
        let advice = "two versions work side by side; go on with the upgrade, dispatchers before gateways";
        return Check::warn(NAME, found, advice);
    }
    Check::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Status;
    use super::*;

    fn instance(name: &str, region: &str, version: &str) -> Instance {
        Instance {
            name: name.to_owned(),
            id: "i".to_owned(),
            version: version.to_owned(),
            metadata: HashMap::from([("region".to_owned(), region.to_owned())]),
        }
    }

    #[test]
    fn who_is_missing_and_who_is_of_another_version_is_told() {
        let regions = ["eu", "us"].map(str::to_owned).into();
        let mut instances = vec![
            instance("peal-gateway", "eu", "1.0.0"),
            instance("peal-gateway", "eu", "1.0.0"),
            instance("peal-dispatcher", "eu", "1.0.0"),
            instance("peal-gateway", "us", "1.0.0"),
            instance("something-else", "us", "9.0.0"),
        ];
        let found = judge(&regions, &instances);
        assert!(
            found.status == Status::Warn && found.found.ends_with("heard of peal-dispatcher of us"),
            "{found:?}"
        );
        instances.push(instance("peal-dispatcher", "us", "1.0.0"));
        let found = judge(&regions, &instances);
        assert!(found.status == Status::Ok && found.found.contains("2 peal-gateway of eu"), "{found:?}");
        instances[0].version = "1.1.0".to_owned();
        let found = judge(&regions, &instances);
        assert!(
            found.status == Status::Warn && found.found.contains("; 1.1.0: peal-gateway of eu"),
            "{found:?}"
        );
        assert_eq!(judge(&regions, &[]).found, "nobody answers");
    }
}
