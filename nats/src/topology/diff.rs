//! The comparison of a topology with what a server has: pure, over the fields of the configurations as JSON.
//!
//! Both sides are brought to one form first (see [`normalized`]), so that a setting which a server writes out and one
//! which it leaves away compare equal. These settings are the operator's and are neither compared nor touched:
//! placement, republish, compression, consumer limits, subject transform and the first sequence of a stream, but for a
//! subject transform that Peal needs; the pause of a consumer; and metadata that is not Peal's.

use std::collections::BTreeSet;

use async_nats::jetstream::{consumer, stream};
use serde::Serialize;
use serde_json::{Map, Value};

use super::change::{Change, Danger, Desired, FieldChange, Kind, Plan, Target};
use super::{Current, CurrentStream, StreamSpec, Topology, metadata};

/// Settings of streams that belong to the operator.
const OPERATORS_STREAM_FIELDS: [&str; 7] = [
    "placement",
    "republish",
    "compression",
    "consumer_limits",
    "first_seq",
    "template_owner",
    "pause_until",
];

/// Settings of consumers that belong to the operator.
const OPERATORS_CONSUMER_FIELDS: [&str; 1] = ["pause_until"];

/// Settings of streams that the server (2.15) does not change in place, or not in the direction that we may need.
const FIXED_STREAM_FIELDS: [&str; 13] = [
    "storage",
    "retention",
    "persist_mode",
    "mirror",
    "max_consumers",
    "sealed",
    "deny_delete",
    "deny_purge",
    "allow_msg_schedules",
    "allow_msg_counter",
    "allow_msg_ttl",
    "no_ack",
    "name",
];

/// Settings of consumers that the server does not change in place.
const FIXED_CONSUMER_FIELDS: [&str; 8] = [
    "ack_policy",
    "deliver_policy",
    "deliver_subject",
    "deliver_group",
    "durable_name",
    "replay_policy",
    "max_waiting",
    "mem_storage",
];

/// Settings for which the server reads 0 as "no limit" and answers -1.
const ZERO_IS_UNLIMITED: [&str; 6] =
    ["max_bytes", "max_msgs", "max_msgs_per_subject", "max_msg_size", "max_consumers", "max_deliver"];

/// Limits beyond which stored messages are dropped. No limit is -1, or absent where it is an age.
const LIMITS: [&str; 4] = ["max_bytes", "max_msgs", "max_msgs_per_subject", "max_age"];

/// The steps that lead from `current` to `desired`. Pure; an empty plan means that they agree.
#[must_use]
pub fn plan(current: &Current, desired: &Topology) -> Plan {
    let mut changes = Vec::new();
    for spec in &desired.streams {
        match current.streams.get(&spec.config.name) {
            None => create_stream(spec, &mut changes),
            Some(existing) => compare_stream(existing, spec, desired.region.as_str(), &mut changes),
        }
    }
    for (name, existing) in &current.streams {
        if desired.stream(name).is_none() && owner(&existing.config.metadata) == Some(desired.region.as_str())
        {
            changes.push(removal(Target::Stream { stream: name.clone() }));
        }
    }
    Plan { changes }
}

fn create_stream(spec: &StreamSpec, changes: &mut Vec<Change>) {
    changes.push(Change {
        target: Target::Stream { stream: spec.config.name.clone() },
        kind: Kind::Create,
        fields: Vec::new(),
        desired: Desired::Stream(Box::new(spec.config.clone())),
    });
    changes.extend(spec.consumers.iter().map(|consumer| create_consumer(&spec.config.name, consumer)));
}

fn create_consumer(stream: &str, consumer: &consumer::Config) -> Change {
    Change {
        target: Target::Consumer { stream: stream.to_owned(), consumer: consumer_name(consumer).to_owned() },
        kind: Kind::Create,
        fields: Vec::new(),
        desired: Desired::Consumer(Box::new(consumer.clone())),
    }
}

fn removal(target: Target) -> Change {
    Change { target, kind: Kind::Remove, fields: Vec::new(), desired: Desired::Nothing }
}

fn compare_stream(existing: &CurrentStream, spec: &StreamSpec, region: &str, changes: &mut Vec<Change>) {
    let wanted = with_operators_settings(&spec.config, &existing.config);
    let fields = differences(
        &existing.config,
        &wanted,
        &OPERATORS_STREAM_FIELDS,
        &FIXED_STREAM_FIELDS,
        owner(&existing.config.metadata) == Some(region),
    );
    let recreate = fields.iter().any(|field| field.danger == Some(Danger::Loses));
    let stream_change = (!fields.is_empty()).then(|| Change {
        target: Target::Stream { stream: spec.config.name.clone() },
        kind: if recreate { Kind::Recreate } else { Kind::Update },
        fields,
        desired: Desired::Stream(Box::new(wanted)),
    });
    if recreate {
        changes.extend(stream_change);
        changes.extend(spec.consumers.iter().map(|consumer| create_consumer(&spec.config.name, consumer)));
        return;
    }
    // What a new source brings must not pass a consumer whose filter does not know it yet.
    let is_gathered = spec.config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    let (first, last) = if is_gathered { (None, stream_change) } else { (stream_change, None) };
    changes.extend(first);
    // A work queue's filters may not overlap, so that what goes makes room for what comes.
    for (name, config) in &existing.consumers {
        let wanted = spec.consumers.iter().any(|consumer| consumer_name(consumer) == name);
        if !wanted && owner(&config.metadata) == Some(region) {
            let (stream, consumer) = (spec.config.name.clone(), name.clone());
            changes.push(removal(Target::Consumer { stream, consumer }));
        }
    }
    for consumer in &spec.consumers {
        match existing.consumers.get(consumer_name(consumer)) {
            None => changes.push(create_consumer(&spec.config.name, consumer)),
            Some(found) => changes.extend(compare_consumer(&spec.config.name, found, consumer, region)),
        }
    }
    changes.extend(last);
}

fn compare_consumer(
    stream: &str,
    existing: &consumer::Config,
    desired: &consumer::Config,
    region: &str,
) -> Option<Change> {
    let fields = differences(
        existing,
        desired,
        &OPERATORS_CONSUMER_FIELDS,
        &FIXED_CONSUMER_FIELDS,
        owner(&existing.metadata) == Some(region),
    );
    if fields.is_empty() {
        return None;
    }
    let recreate = fields.iter().any(|field| field.danger == Some(Danger::Loses));
    let mut wanted = desired.clone();
    wanted.pause_until = existing.pause_until;
    keep_foreign_metadata(&mut wanted.metadata, &existing.metadata);
    Some(Change {
        target: Target::Consumer { stream: stream.to_owned(), consumer: consumer_name(desired).to_owned() },
        kind: if recreate { Kind::Recreate } else { Kind::Update },
        fields,
        desired: Desired::Consumer(Box::new(wanted)),
    })
}

/// The desired stream with the settings that are the operator's taken from the existing one.
fn with_operators_settings(desired: &stream::Config, existing: &stream::Config) -> stream::Config {
    let mut config = desired.clone();
    config.placement.clone_from(&existing.placement);
    config.republish.clone_from(&existing.republish);
    config.compression.clone_from(&existing.compression);
    config.consumer_limits.clone_from(&existing.consumer_limits);
    if desired.subject_transform.is_none() {
        config.subject_transform.clone_from(&existing.subject_transform);
    }
    config.first_sequence = existing.first_sequence;
    config.template_owner.clone_from(&existing.template_owner);
    config.pause_until = existing.pause_until;
    keep_foreign_metadata(&mut config.metadata, &existing.metadata);
    config
}

type Metadata = std::collections::HashMap<String, String>;

fn keep_foreign_metadata(desired: &mut Metadata, existing: &Metadata) {
    // The server writes its own keys (`_nats.…`) and refuses to be told them.
    let foreign = existing.iter().filter(|(key, _)| !metadata::is_ours(key) && !key.starts_with("_nats."));
    desired.extend(foreign.map(|(key, value)| (key.clone(), value.clone())));
}

fn owner(metadata: &Metadata) -> Option<&str> {
    metadata.get(metadata::REGION).map(String::as_str)
}

fn consumer_name(config: &consumer::Config) -> &str {
    config.durable_name.as_deref().or(config.name.as_deref()).unwrap_or_default()
}

fn differences(
    existing: &impl Serialize,
    desired: &impl Serialize,
    operators: &[&str],
    fixed: &[&str],
    ours: bool,
) -> Vec<FieldChange> {
    let (existing, desired) = (normalized(existing, operators), normalized(desired, operators));
    let names: BTreeSet<&String> = existing.keys().chain(desired.keys()).collect();
    let mut changes: Vec<FieldChange> = names
        .into_iter()
        .filter_map(|name| {
            let from = existing.get(name).cloned().unwrap_or(Value::Null);
            let to = desired.get(name).cloned().unwrap_or(Value::Null);
            if from == to {
                return None;
            }
            let danger = danger(name, &from, &to, fixed, ours);
            Some(FieldChange { field: name.clone(), from, to, danger })
        })
        .collect();
    let version = format!("metadata.{}", metadata::VERSION);
    if changes.iter().all(|change| change.field == version) {
        changes.clear();
    }
    changes
}

fn danger(field: &str, from: &Value, to: &Value, fixed: &[&str], ours: bool) -> Option<Danger> {
    // Turning these on is possible at any time; only turning them off is not.
    let switched_on = matches!(field, "allow_msg_ttl" | "allow_msg_schedules" | "deny_delete" | "deny_purge")
        && from.is_null()
        && !to.is_null();
    if fixed.contains(&field) && !switched_on {
        return Some(Danger::Loses);
    }
    if LIMITS.contains(&field) && limit(to) < limit(from) {
        return Some(Danger::Shrinks);
    }
    if field == "num_replicas" && to.as_u64() < from.as_u64() {
        return Some(Danger::FewerReplicas);
    }
    if !ours && field == format!("metadata.{}", metadata::REGION) {
        return Some(Danger::NotOurs);
    }
    None
}

/// A limit as a number that grows with what fits: no limit is the largest.
fn limit(value: &Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

/// One form for both sides: unset, false, empty and zero values are left away, "no limit" is -1, metadata keys are
/// fields of their own and only ours count.
fn normalized(config: &impl Serialize, operators: &[&str]) -> Map<String, Value> {
    let Ok(Value::Object(fields)) = serde_json::to_value(config) else {
        // Configurations are plain structs; they always serialise to an object.
        return Map::new();
    };
    let mut normal = Map::new();
    for (name, value) in fields {
        if operators.contains(&name.as_str()) {
            continue;
        }
        if name == "metadata" {
            if let Value::Object(entries) = value {
                normal.extend(
                    entries
                        .into_iter()
                        .filter(|(key, _)| metadata::is_ours(key))
                        .map(|(key, value)| (format!("metadata.{key}"), value)),
                );
            }
            continue;
        }
        let value = match pruned(value) {
            zero if ZERO_IS_UNLIMITED.contains(&name.as_str()) && zero == 0 => Value::from(-1),
            value => value,
        };
        if !is_unset(&name, &value) {
            normal.insert(name, value);
        }
    }
    for name in ZERO_IS_UNLIMITED {
        normal.entry(name).or_insert_with(|| Value::from(-1));
    }
    normal
}

/// Without unset values inside: the server writes some of them out, such as the empty prefix of a source.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, pruned(value)));
            Value::Object(fields.filter(|(name, value)| !is_unset(name, value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(pruned).collect()),
        value => value,
    }
}

fn is_unset(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty() || (name == "persist_mode" && text == "default"),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::{DiscardPolicy, PersistenceMode, StorageType};

    use super::super::{ALL_STATE, EVENTS, INTAKE, Options, SANDBOX};
    use super::*;

    fn topology() -> Topology {
        Topology::for_region(&"seoul".parse().unwrap(), &Options::default())
    }

    fn as_current(topology: &Topology) -> Current {
        let streams = topology.streams.iter().map(|spec| {
            let consumers = spec.consumers.iter().map(|c| (consumer_name(c).to_owned(), c.clone()));
            let stream =
                CurrentStream { config: spec.config.clone(), consumers: consumers.collect(), peers: None };
            (spec.config.name.clone(), stream)
        });
        Current { streams: streams.collect() }
    }

    fn after(change: impl FnOnce(&mut Current)) -> Plan {
        let mut current = as_current(&topology());
        change(&mut current);
        plan(&current, &topology())
    }

    fn config<'a>(current: &'a mut Current, name: &str) -> &'a mut stream::Config {
        &mut current.streams.get_mut(name).unwrap().config
    }

    #[test]
    fn nothing_differs_from_itself() {
        assert!(after(|_| {}).is_empty());
    }

    #[test]
    fn an_empty_server_gets_everything() {
        let plan = plan(&Current::default(), &topology());
        let consumers: usize = topology().streams.iter().map(|spec| spec.consumers.len()).sum();
        assert_eq!(plan.changes.len(), topology().streams.len() + consumers);
        assert_eq!(plan.dangerous().count(), 0);
    }

    #[test]
    fn a_changed_setting_is_shown_with_both_values() {
        let plan = after(|current| config(current, INTAKE).discard = DiscardPolicy::Old);
        assert_eq!(plan.to_string(), "~ update stream INTAKE\n    discard: \"old\" -> \"new\"");
        assert_eq!(plan.dangerous().count(), 0);
    }

    #[test]
    fn raising_a_limit_is_harmless_and_lowering_it_is_not() {
        let raised = after(|current| config(current, EVENTS).max_bytes = 1);
        assert_eq!(raised.changes[0].danger(), None);
        let lowered = after(|current| config(current, EVENTS).max_bytes = -1);
        assert_eq!(lowered.changes[0].danger(), Some(Danger::Shrinks));
        let younger = after(|current| config(current, EVENTS).max_age = std::time::Duration::ZERO);
        assert_eq!(younger.changes[0].danger(), Some(Danger::Shrinks));
        let fewer = after(|current| config(current, EVENTS).num_replicas = 3);
        assert_eq!(fewer.changes[0].danger(), Some(Danger::FewerReplicas));
    }

    #[test]
    fn what_the_server_cannot_change_means_recreating_with_all_consumers() {
        let plan = after(|current| config(current, INTAKE).storage = StorageType::Memory);
        let kinds: Vec<_> = plan.changes.iter().map(|change| change.kind).collect();
        assert_eq!(kinds, [Kind::Recreate, Kind::Create, Kind::Create, Kind::Create, Kind::Create]);
        let plan = after(|current| config(current, INTAKE).persist_mode = Some(PersistenceMode::Async));
        assert_eq!(plan.changes[0].kind, Kind::Recreate);
    }

    #[test]
    fn only_what_bears_our_region_is_removed() {
        let mut extra = topology().streams[0].config.clone();
        extra.name = "OLD".to_owned();
        let mut foreign = extra.clone();
        foreign.name = "FOREIGN".to_owned();
        foreign.metadata.clear();
        let plan = after(|current| {
            for config in [extra, foreign] {
                let stream = CurrentStream { config, ..CurrentStream::default() };
                current.streams.insert(stream.config.name.clone(), stream);
            }
        });
        assert_eq!(plan.to_string(), "- remove stream OLD  (destroys stored messages or positions)");
    }

    #[test]
    fn a_stream_of_somebody_else_is_not_taken_over_silently() {
        let plan = after(|current| config(current, EVENTS).metadata.clear());
        assert_eq!(plan.changes[0].danger(), Some(Danger::NotOurs));
    }

    #[test]
    fn what_is_the_operators_is_neither_compared_nor_lost() {
        let plan = after(|current| {
            let config = config(current, EVENTS);
            config.placement = Some(stream::Placement { cluster: None, tags: vec!["ssd".to_owned()] });
            config.metadata.insert("team".to_owned(), "blue".to_owned());
        });
        assert!(plan.is_empty(), "{plan}");
        let plan = after(|current| {
            let config = config(current, EVENTS);
            config.placement = Some(stream::Placement { cluster: None, tags: vec!["ssd".to_owned()] });
            config.metadata.insert("team".to_owned(), "blue".to_owned());
            config.max_bytes = 1;
        });
        let Desired::Stream(updated) = &plan.changes[0].desired else { panic!("{plan}") };
        assert_eq!(updated.placement.as_ref().unwrap().tags, ["ssd"]);
        assert_eq!(updated.metadata["team"], "blue");
    }

    #[test]
    fn a_subject_transform_is_the_operators_but_for_one_that_is_needed() {
        let of = |source: &str, destination: &str| {
            let (source, destination) = (source.to_owned(), destination.to_owned());
            Some(stream::SubjectTransform { source, destination })
        };
        let hub = Topology::for_hub(&"hub".parse().unwrap(), &["eu".parse().unwrap()], &Options::default());
        // As builds made it that brought nothing.
        let mut current = as_current(&hub);
        let before = config(&mut current, ALL_STATE);
        (before.subjects, before.subject_transform) = (Vec::new(), of("a", "b"));
        config(&mut current, EVENTS).subject_transform = of("a", "b");
        let plan = plan(&current, &hub);
        let [change] = &plan.changes[..] else { panic!("{plan}") };
        assert_eq!((change.kind, change.danger()), (Kind::Update, None));
        let fields: Vec<_> = change.fields.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(fields, ["subject_transform", "subjects"]);
        let Desired::Stream(updated) = &change.desired else { panic!("{plan}") };
        assert_eq!(updated.subject_transform, of("peal.hub.brought.*.>", "$KV.{{wildcard(1)}}.>"));
    }

    #[test]
    fn another_version_of_peal_alone_is_no_difference() {
        let set = |config: &mut stream::Config| {
            config.metadata.insert(metadata::VERSION.to_owned(), "0.0.1".to_owned());
        };
        assert!(after(|current| set(config(current, EVENTS))).is_empty());
        let with_more = after(|current| {
            set(config(current, EVENTS));
            config(current, EVENTS).max_bytes = 1;
        });
        assert_eq!(with_more.changes[0].fields.len(), 2);
    }

    #[test]
    fn consumers_are_created_updated_recreated_and_removed() {
        let plan = after(|current| {
            let consumers = &mut current.streams.get_mut(INTAKE).unwrap().consumers;
            consumers.remove("fanout_bulk");
            consumers.get_mut("fanout_high").unwrap().max_ack_pending = 7;
            consumers.get_mut("fanout_normal").unwrap().ack_policy = consumer::AckPolicy::None;
            let stale = consumers["fanout_critical"].clone();
            consumers.insert("stale".to_owned(), stale);
            let mut foreign = consumers["fanout_critical"].clone();
            foreign.metadata.clear();
            consumers.insert("foreign".to_owned(), foreign);
        });
        let shown: Vec<_> =
            plan.changes.iter().map(|change| (change.kind, change.target.to_string())).collect();
        let expected = [
            (Kind::Remove, "consumer INTAKE/stale"),
            (Kind::Update, "consumer INTAKE/fanout_high"),
            (Kind::Recreate, "consumer INTAKE/fanout_normal"),
            (Kind::Create, "consumer INTAKE/fanout_bulk"),
        ];
        assert_eq!(shown, expected.map(|(kind, target)| (kind, target.to_owned())));
    }

    #[test]
    fn turning_the_sandbox_off_removes_it() {
        let region = "seoul".parse().unwrap();
        let with = Topology::for_region(&region, &Options { sandbox: true, ..Options::default() });
        let plan = plan(&as_current(&with), &topology());
        assert_eq!(plan.changes[0].target, Target::Stream { stream: SANDBOX.to_owned() });
        assert_eq!(plan.changes[0].kind, Kind::Remove);
    }
}
