//! Categories: what kind of notification it is, and what follows from that.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::channel::{ChannelChoice, Priority};
use crate::fallback::Fallback;
use crate::problem::FieldError;

/// The facet that holds a category.
pub const CATEGORY_FACET: &str = "category";

/// The class that laws and defaults go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Something the recipient asked for or needs.
    Transactional,
    /// Advertising: needs consent, is sent as bulk by default.
    Marketing,
    /// Operations: alerts to the people who run something.
    Operational,
}

/// A category, as the API takes and gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The class.
    pub class: Class,
    /// Recipients can't refuse it.
    #[serde(default)]
    pub mandatory: bool,
    /// The channels to use, in order of preference: the first usable one gets the notification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelChoice>,
    /// The priority of notifications that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// What notifications do that name no `fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Category {
    /// Checks what types can't say.
    ///
    /// # Errors
    /// One entry for each thing that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = check_choices("channels", &self.channels).err().unwrap_or_default();
        errors.extend(self.fallback.and_then(|fallback| fallback.check().err()));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The priority of notifications that name none: the category's own, else bulk for marketing, else normal.
    #[must_use]
    pub fn default_priority(&self) -> Priority {
        self.priority.unwrap_or(match self.class {
            Class::Marketing => Priority::Bulk,
            Class::Transactional | Class::Operational => Priority::Normal,
        })
    }
}

/// Checks a list of channels that people wrote: each at most once.
///
/// # Errors
/// An entry when a channel stands there twice.
pub fn check_choices(field: &str, choices: &[ChannelChoice]) -> Result<(), Vec<FieldError>> {
    let repeated = choices.iter().enumerate().find(|(index, choice)| choices[..*index].contains(choice));
    match repeated {
        Some((index, _)) => {
            Err(vec![FieldError::new(format!("{field}[{index}]"), "repeated", "name each channel once")])
        }
        None => Ok(()),
    }
}
