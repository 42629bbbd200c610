//! The intent log: before a call that must not be made twice, the intent to make it is durable.
//!
//! A message that comes again, and of which no event tells how it ended, may have been sent by a dispatcher that was killed
//! between the call and its event. For a channel where a second call does no harm it is simply called again. For the others
//! an intent that nobody withdrew says that nobody here can know: the provider is asked where it can be, and otherwise the
//! delivery is ambiguous ([`super::interrupted`]). Each intent costs a write before the call and one after it; in normal running none is ever read.

use std::time::Duration;

use jiff::Timestamp;
use peal_common::category::Class;
use peal_common::channel::Channel;
use peal_common::decide;
use peal_common::envelope::Work;
use peal_common::outcome::Outcome;
use peal_nats::follow::StateError;
use peal_nats::publish::Outgoing;
use peal_nats::topology::ATTEMPTS;

use crate::channels::{CALL_LIMIT, CallTime, TRY_NEXT};
use crate::context::{Context, SayError};

/// How long what is settled stays readable, for whoever asks at the same moment.
const SETTLED_TTL: Duration = Duration::from_secs(60);
/// What stands in the place of an intent that is settled or withdrawn.
const SETTLED: &[u8] = b"-";
/// The header of an intent that names the account.
const ACCOUNT_HEADER: &str = "Peal-Account";
/// The header of an intent that numbers the attempt, from 1.
const ATTEMPT_HEADER: &str = "Peal-Attempt";
/// An intent that is younger may be that of a call under way: a server that was started again hands out once more what
/// others have in hand.
const YOUNG: Duration = CALL_LIMIT.saturating_add(TRY_NEXT);
/// No server takes a message back so soon after it was handed out.
const AT_THE_SAME_TIME: Duration = Duration::from_secs(1);

/// Whether calls for deliveries of this class are declared.
pub(super) const fn are_kept(channel: Channel, class: Class) -> bool {
    !decide::may_repeat(channel, class)
}

/// Whether a call that ended so was certainly heard by nobody.
pub(super) const fn is_unheard(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. } | Outcome::HeldBack { .. } | Outcome::Unavailable { .. })
}

/// What is known of an earlier call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// There was none, or it is known how it ended.
    None,
    /// It may be under way, for at most so long.
    Young(Duration),
    /// Nobody here can tell how it ended.
    Open(OpenCall),
}

/// A call of which nobody here can tell how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenCall {
    /// When it began.
    pub(super) time: CallTime,
    /// Whether it was made because the one before it had not reached the provider.
    pub(super) is_second: bool,
    /// The account that was called, unless the intent was written by a version that did not say it.
    pub(super) account: Option<String>,
    /// The attempts before it, unless the intent was written by a version that did not say it.
    pub(super) earlier: Option<u32>,
}

/// Makes the intent to call an account durable; it replaces that to call another one before. `is_second`: the call before it had
/// not reached the provider.
pub(super) async fn declare(
    context: &Context,
    work: &Work,
    account: &str,
    is_second: bool,
) -> Result<(), SayError> {
    // In headers, where a version that knows nothing of them reads the rest as before.
    let attempt = work.attempts.saturating_add(1).to_string();
    let intent = Outgoing::new(subject(context, work), said(work, is_second))
        .header(ACCOUNT_HEADER, account)
        .header(ATTEMPT_HEADER, &attempt);
    context.connection.publish(intent).await?;
    Ok(())
}

/// What an intent says: which replay it belongs to, and whether it is the second one of that.
fn said(work: &Work, is_second: bool) -> String {
    match is_second {
        true => format!("{} second", work.replays),
        false => work.replays.to_string(),
    }
}

/// The call was heard by nobody: another may follow.
pub(super) async fn withdraw(context: &Context, work: &Work) -> Result<(), SayError> {
    context.connection.publish(settled(context, work)).await?;
    Ok(())
}

/// An event says how it ended: nobody will ask. When this is lost, the intent goes with age.
pub(super) async fn forget(context: &Context, work: &Work) {
    if let Err(error) = context.connection.send(settled(context, work)).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "an intent is left to its age");
    }
}

/// Looks for an intent of a delivery that came again.
pub(super) async fn find(context: &Context, work: &Work, is_taken_back: bool) -> Result<Intent, StateError> {
    // No class of the channel may have one.
    if decide::may_repeat(work.channel, Class::Marketing) {
        return Ok(Intent::None);
    }
    let Some(found) = context.connection.last_of(ATTEMPTS, &subject(context, work)).await? else {
        return Ok(Intent::None);
    };
    let is_second = *found.payload == *said(work, true).as_bytes();
    if !is_second && *found.payload != *said(work, false).as_bytes() {
        return Ok(Intent::None);
    }
    let age_ms = u64::try_from(context.clock.now_ms().saturating_sub(found.at_ms)).unwrap_or(0);
    let age = Duration::from_millis(age_ms);
    let left = YOUNG.saturating_sub(age);
    // Whoever had a message that the server took back told nothing for longer than a call may take. One that has declared its
    // call a moment ago was handed the message beside us, by a server that was started again.
    if !left.is_zero() && (!is_taken_back || age < AT_THE_SAME_TIME) {
        return Ok(Intent::Young(left));
    }
    let began = Timestamp::from_millisecond(found.at_ms).unwrap_or_else(|_| context.clock.now());
    let account = found.header(ACCOUNT_HEADER).map(str::to_owned);
    let earlier =
        found.header(ATTEMPT_HEADER).and_then(|attempt| attempt.parse::<u32>().ok()?.checked_sub(1));
    Ok(Intent::Open(OpenCall { time: CallTime::declared_at(began), is_second, account, earlier }))
}

fn settled(context: &Context, work: &Work) -> Outgoing {
    Outgoing::new(subject(context, work), SETTLED).ttl(SETTLED_TTL)
}

fn subject(context: &Context, work: &Work) -> String {
    context.subjects.attempt(work.channel, work.delivery.as_str())
}
