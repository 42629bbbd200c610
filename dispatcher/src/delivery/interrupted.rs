//! Deliveries whose provider may have been called without anybody here knowing what came of it: the dispatcher did not live
//! to tell, or the answer got lost. Where the provider can say whether it has the message, it is asked before anything else
//! is done.

use std::time::Duration;

use peal_common::category::Class;
use peal_common::envelope::Work;
use peal_common::outcome::Outcome;
use peal_nats::pull::Job;

use super::attempt::{self, Decision, Way};
use super::intents::OpenCall;
use super::{DeliveryError, untried};
use crate::channels::Found;
use crate::context::Context;

/// How long after a question that was not answered it is asked again.
const PAUSE: Duration = Duration::from_secs(30);
/// How often a delivery is handed out until nobody is asked any more.
const MAX_HANDED_OUT: u32 = 10;

/// What is to be done with such a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is settled, or comes again.
    Nothing,
    /// The provider does not have it: it is called once more.
    Call,
}

/// Finds out what came of a call, and settles its delivery unless another call has to follow.
pub(super) async fn settle(
    context: &Context,
    job: &Job,
    work: &Work,
    call: OpenCall,
) -> Result<Next, DeliveryError> {
    context.caught_up(work.state_seq).await?;
    let providers = context.providers();
    let way = Way::of(context, &providers, work)?;
    let mut to = untried(context, job, None, &way, &providers);
    let ambiguous = |reason: &str| Outcome::Ambiguous { reason: reason.to_owned() };
    let outcome = match attempt::decide(context, work, None)? {
        Decision::Send(ready) if way.is_searchable(&providers, call.account.as_deref()) => {
            match attempt::find(context, &way, &ready, &providers, &call).await {
                Ok((Found::Taken(outcome), provider)) => {
                    to.provider = provider;
                    outcome
                }
                Ok((Found::NotTaken, _)) if !call.is_second && way.class() != Class::Marketing => {
                    return Ok(Next::Call);
                }
                Ok((Found::NotTaken, _)) => ambiguous("not_at_provider"),
                Ok((Found::Unknown, _)) => ambiguous("provider_unsure"),
                Err(_) if job.deliveries < MAX_HANDED_OUT => {
                    job.nak(PAUSE).await?;
                    return Ok(Next::Nothing);
                }
                Err(outcome) => {
                    tracing::debug!(delivery.channel = %work.channel, outcome = outcome.name(), "nobody to ask");
                    ambiguous("provider_unsure")
                }
            }
        }
        // Nobody can be asked, or nobody knows any more for what.
        _ => ambiguous("dispatcher_lost"),
    };
    super::settle(&to, work, way.class(), &outcome, true).await?;
    Ok(Next::Nothing)
}
