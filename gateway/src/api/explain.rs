//! Why a recipient got a notification, or did not: what happened, and every rule with what it says.

use axum::extract::State;
use jiff::Timestamp;
use peal_common::category::Class;
use peal_common::channel::Channel;
use peal_common::decide::{self, Question, Rule};
use peal_common::envelope::{Envelope as _, Intake, ResolvedTarget, Text};
use peal_common::id::{CategoryId, NotificationId, RecipientId};
use peal_nats::catalog::Stop;
use peal_nats::topology::INTAKE;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::submit::OWN_WRITE_LIMIT;
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{Problem, ProblemBody};
use crate::readmodel::{DeliveryView, EventView};

/// Whom it is about.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whom {
    /// The recipient; may be left out where the notification has one alone.
    #[param(value_type = Option<String>)]
    recipient: Option<RecipientId>,
}

/// Why a recipient got a notification, or did not.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The notification.
    id: NotificationId,
    /// The recipient.
    recipient: RecipientId,
    /// The notification's category.
    category: CategoryId,
    /// The class of the category; unknown when it was deleted.
    class: Option<Class>,
    /// When the rules were asked: now. What they said when it was decided, the events tell.
    as_of: Timestamp,
    /// The rules for the notification as a whole and for the recipient.
    rules: Vec<RuleView>,
    /// The channels in the order in which they are considered.
    channels: Vec<ChannelView>,
    /// What became of it on each channel.
    deliveries: Vec<DeliveryView>,
    /// What happened, the earliest first: of this recipient, and of the notification as a whole.
    events: Vec<EventView>,
}

/// A rule, and what it says.
#[derive(Debug, Serialize, ToSchema)]
struct RuleView {
    /// Its name.
    rule: &'static str,
    /// Whether it lets the notification pass.
    passed: bool,
    /// More in words: the reason as events have it, or until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// A channel, and what the rules say of it.
#[derive(Debug, Serialize, ToSchema)]
struct ChannelView {
    /// The channel.
    channel: Channel,
    /// Whether it would be used now: it is the first in the order that every rule allows, or goes out beside that.
    chosen: bool,
    /// Every rule. Whether somebody is set up to send on it, dispatchers know: `no_provider` stands in the events then.
    rules: Vec<RuleView>,
}

/// Why a recipient got a notification, or did not: every rule with what it says now, the deliveries, and the events.
#[utoipa::path(get, path = "/v1/notifications/{id}/explain", tag = "notifications",
    params(("id" = String, Path, description = "the notification"), Whom),
    responses(
        (status = 200, description = "the reasons", body = Explanation),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn explain(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NotificationId>,
    Query(whom): Query<Whom>,
) -> Result<Json<Explanation>, Problem> {
    let found = app.model.notification_or_wait(&caller.app, &id, OWN_WRITE_LIMIT).await?;
    let found = found.ok_or_else(|| Problem::not_found("notification"))?;
    let intake = intake(&app, &caller, &id).await?.ok_or_else(|| Problem::not_found("notification"))?;
    let target = target(&intake, whom.recipient)?;
    let recipient = &target.recipient;
    let now = app.clock.now();
    let notification = &intake.notification;
    let category = app.catalog.category(&caller.app, &notification.category)?;

    let mut rules = vec![
        rule("category", category.is_some(), (category.is_none()).then(|| "unknown_category".to_owned())),
        match app.catalog.stopped(notification)? {
            None => rule("not_cancelled", true, None),
            Some(Stop::Cancelled) => rule("not_cancelled", false, Some("cancelled".to_owned())),
            Some(Stop::TakenOver) => rule("not_cancelled", false, Some("taken_over".to_owned())),
        },
        rule(
            "not_expired",
            notification.expires_at > now,
            Some(format!("expires {}", notification.expires_at)),
        ),
    ];
    if let Some(at) = intake.send_at {
        rules.push(rule("send_at", at <= now, Some(format!("sent {at}"))));
    }
    let outline = app.catalog.outline(&caller.app, recipient)?;
    rules.push(rule(
        "recipient",
        outline.is_some(),
        outline.is_none().then(|| "unknown_recipient".to_owned()),
    ));
    let mut channels = Vec::new();
    if let (Some(outline), Some(category)) = (&outline, &category) {
        let whole = app.catalog.recipient(&caller.app, recipient)?;
        let zone = whole.as_ref().and_then(|whole| whole.body.time_zone.as_deref());
        let until = decide::quiet_until(&outline.preferences, zone, category, notification.priority, now);
        // The inbox makes no noise.
        rules.push(rule("quiet_hours", until.is_none(), until.map(|until| format!("until {until}"))));
        let locale = whole.as_ref().and_then(|whole| whole.body.locale.as_deref());
        let template = match &notification.text {
            Text::Template { id, version, .. } => app.catalog.template_version(&caller.app, id, *version)?,
            Text::Content(_) => None,
        };
        let has_text = |channel| match &notification.text {
            Text::Content(content) => content.has_body(channel),
            Text::Template { .. } => template.as_ref().is_some_and(|it| it.has_body(channel, locale)),
        };
        let suppressed = app.catalog.suppressed(notification, outline, target.only.as_ref())?;
        let considered = decide::consider(&Question {
            recipient: outline,
            category: &notification.category,
            rules: category,
            channels: notification.channels.as_deref(),
            only: target.only.as_ref(),
            suppressed: &suppressed,
            has_text: &has_text,
            has_provider: &|_| true,
        });
        let first = considered.iter().find(|it| it.is_usable()).map(|it| it.place);
        channels.extend(considered.iter().map(|it| ChannelView {
            channel: it.channel,
            chosen: it.is_usable() && Some(it.place) == first,
            rules: it.rules.iter().filter_map(|(asked, said)| channel_rule(*asked, *said)).collect(),
        }));
    }
    let is_own = |of: &Option<RecipientId>| of.as_ref() == Some(recipient);
    Ok(Json(Explanation {
        id,
        category: notification.category.clone(),
        class: category.map(|category| category.class),
        as_of: now,
        rules,
        channels,
        deliveries: found.summary.deliveries.into_iter().filter(|it| is_own(&it.recipient)).collect(),
        events: found
            .events
            .into_iter()
            .filter(|it| it.recipient.is_none() || is_own(&it.recipient))
            .collect(),
        recipient: recipient.clone(),
    }))
}

const fn rule(rule: &'static str, passed: bool, detail: Option<String>) -> RuleView {
    RuleView { rule, passed, detail }
}

fn channel_rule(asked: Rule, said: Result<(), decide::Reason>) -> Option<RuleView> {
    let name = match asked {
        Rule::Contact => "contact",
        Rule::Text => "text",
        Rule::Preferences => "preferences",
        Rule::Suppression => "suppression",
        Rule::Provider => return None,
    };
    let detail = match (asked, said) {
        (_, Ok(())) => None,
        (Rule::Contact, Err(_)) => Some("no_contact".to_owned()),
        (_, Err(reason)) => Some(reason.as_str().to_owned()),
    };
    Some(rule(name, said.is_ok(), detail))
}

/// The notification as it was accepted.
async fn intake(app: &App, caller: &Caller, id: &NotificationId) -> Result<Option<Intake>, Problem> {
    let Some(before) = app.model.find_accepted(&caller.app, id)? else { return Ok(None) };
    let stored = app.connection.message_at(INTAKE, before.sequence).await?;
    let intake = stored.and_then(|stored| Intake::decode(&stored.payload).ok());
    Ok(intake.filter(|intake| intake.notification.app == caller.app && intake.notification.id == *id))
}

fn target(intake: &Intake, recipient: Option<RecipientId>) -> Result<&ResolvedTarget, Problem> {
    match (recipient, intake.targets.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => {
            let detail = "the notification has several recipients: name one, ?recipient=…";
            Err(Problem::invalid_field("recipient", "required", detail))
        }
        (Some(recipient), targets) => {
            let found = targets.iter().find(|target| target.recipient == recipient);
            found.ok_or_else(|| Problem::not_found("recipient of this notification"))
        }
    }
}
