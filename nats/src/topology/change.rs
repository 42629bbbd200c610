//! A plan as people read it: what would be created, changed, recreated or removed, and what that would cost.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use serde::Serialize;
use serde_json::Value;

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A stream.
    Stream {
        /// Its name.
        stream: String,
    },
    /// A durable consumer.
    Consumer {
        /// The stream's name.
        stream: String,
        /// The consumer's name.
        consumer: String,
    },
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It does not exist yet.
    Create,
    /// Settings change in place.
    Update,
    /// The server can't change this setting in place: delete and create again. A stream loses its messages, a
    /// consumer its position.
    Recreate,
    /// It is Peal's and no longer wanted.
    Remove,
}

/// Why a change is carried out only on explicit request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Danger {
    /// Messages or positions are lost.
    Loses,
    /// A limit shrinks: messages beyond it are dropped.
    Shrinks,
    /// Fewer copies of each message.
    FewerReplicas,
    /// A stream or consumer that is not marked as this region's would be taken over.
    NotOurs,
}

impl Danger {
    const fn as_str(self) -> &'static str {
        match self {
            Danger::Loses => "destroys stored messages or positions",
            Danger::Shrinks => "drops what is beyond the new limit",
            Danger::FewerReplicas => "keeps fewer copies of each message",
            Danger::NotOurs => "takes over what is not marked as this region's",
        }
    }
}

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// The setting's name in JetStream's API, such as `max_age` or `metadata.peal.region`.
    pub field: String,
    /// What the server has; null where it is unset.
    pub from: Value,
    /// What the topology says; null where it is unset.
    pub to: Value,
    /// Why the change of this setting needs permission, if it does.
    pub danger: Option<Danger>,
}

/// One step of a [`Plan`].
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// What changes.
    #[serde(flatten)]
    pub target: Target,
    /// What is done to it.
    pub kind: Kind,
    /// The settings that differ; empty when something is created or removed.
    pub fields: Vec<FieldChange>,
    #[serde(skip)]
    pub(super) desired: Desired,
}

/// What the target shall be afterwards.
#[derive(Debug, Clone)]
pub(super) enum Desired {
    Stream(Box<stream::Config>),
    Consumer(Box<consumer::Config>),
    Nothing,
}

impl Change {
    /// Why this change needs permission, if it does.
    #[must_use]
    pub fn danger(&self) -> Option<Danger> {
        match self.kind {
            Kind::Create => None,
            Kind::Update => self.fields.iter().find_map(|field| field.danger),
            Kind::Recreate | Kind::Remove => Some(Danger::Loses),
        }
    }
}

/// The steps from what a server has to what a topology says, in order.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Plan {
    /// The steps; empty when server and topology agree.
    pub changes: Vec<Change>,
}

impl Plan {
    /// Whether server and topology agree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that are carried out only on explicit request.
    pub fn dangerous(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.danger().is_some())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing to change");
        }
        for (index, change) in self.changes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{change}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stream { stream } => write!(f, "stream {stream}"),
            Target::Consumer { stream, consumer } => write!(f, "consumer {stream}/{consumer}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, verb) = match self.kind {
            Kind::Create => ('+', "create"),
            Kind::Update => ('~', "update"),
            Kind::Recreate => ('!', "delete and create again"),
            Kind::Remove => ('-', "remove"),
        };
        write!(f, "{sign} {verb} {}", self.target)?;
        if let (Kind::Recreate | Kind::Remove, Some(danger)) = (self.kind, self.danger()) {
            write!(f, "  ({})", danger.as_str())?;
        }
        for field in &self.fields {
            write!(f, "\n    {field}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (shown(&self.field, &self.from), shown(&self.field, &self.to));
        write!(f, "{}: {from} -> {to}", self.field)?;
        if let Some(danger) = self.danger {
            write!(f, "  ({})", danger.as_str())?;
        }
        Ok(())
    }
}

/// Settings whose number is nanoseconds.
const NANOSECONDS: [&str; 5] =
    ["max_age", "duplicate_window", "subject_delete_marker_ttl", "ack_wait", "inactive_threshold"];

fn shown(field: &str, value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::Number(number) if NANOSECONDS.contains(&field) => {
            number.as_u64().map_or_else(|| number.to_string(), |n| format!("{:?}", Duration::from_nanos(n)))
        }
        Value::Number(number) if field == "max_bytes" => match number.as_u64() {
            Some(bytes) => format!("{bytes} ({} MiB)", bytes / (1024 * 1024)),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}
