//! The access token that all sends bear: kept, renewed before it expires, and asked for by one at a time.

use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use url::Url;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::grant::{self, Grant};
use super::service_account::ServiceAccount;
use crate::channels::http as shared;

/// A token is renewed when so much of its lifetime is left: long enough to try again many times while it still serves.
const ROOM: Duration = Duration::from_secs(300);
/// A token that lives shorter is renewed when this part of its lifetime is left.
const ROOM_PART: u32 = 4;
/// After a failure nobody asks again for so long, in milliseconds.
const FAILURE_PAUSE_MS: i64 = 5_000;
/// A token that Firebase refuses is replaced, and for so long the next one is not, in milliseconds: when Firebase
/// refuses that too, another would not help.
const REFUSAL_PAUSE_MS: i64 = 10_000;
/// How long a renewal may take while the old token still serves, unless the call has less time.
const RENEWAL_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read; Google's tokens take up to 2 KiB.
const MAX_BODY_BYTES: usize = 32 * 1024;

/// A token, and which of all that were given it is.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// The value of `authorization`.
    pub(super) header: HeaderValue,
    number: u64,
}

/// The access token of one service account.
pub(super) struct AccessToken {
    http: reqwest::Client,
    account: ServiceAccount,
    url: Url,
    clock: Clock,
    kept: RwLock<Kept>,
    /// Whoever has its permit may ask for a token.
    turn: Semaphore,
}

/// Times are in milliseconds since the epoch.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// How many were given so far.
    given: u64,
    /// When asking failed last, and how.
    failure: Option<(i64, Outcome)>,
    /// When Firebase refused one last.
    refused_at: Option<i64>,
}

struct Token {
    access: Access,
    renew_at: i64,
    expires_at: i64,
}

/// What there is.
enum Present {
    /// A token that serves for long enough.
    Fresh(Access),
    /// One that still serves and should be renewed.
    Old(Access),
    /// None, and it is too early to ask again.
    Failed(Outcome),
    None,
}

impl Kept {
    fn failure(&self, now: i64) -> Option<&Outcome> {
        let (at, outcome) = self.failure.as_ref()?;
        is_within(FAILURE_PAUSE_MS, *at, now).then_some(outcome)
    }

    fn present(&self, now: i64) -> Present {
        let failure = self.failure(now);
        match (&self.token, failure) {
            (Some(token), _) if now < token.renew_at => Present::Fresh(token.access.clone()),
            // While a failure is young there is nothing better than the old one.
            (Some(token), Some(_)) if now < token.expires_at => Present::Fresh(token.access.clone()),
            (Some(token), None) if now < token.expires_at => Present::Old(token.access.clone()),
            (_, Some(failure)) => Present::Failed(failure.clone()),
            (_, None) => Present::None,
        }
    }
}

/// Whether `at` is less than `pause` ago. The future is not: a clock that was set back makes nobody wait.
fn is_within(pause: i64, at: i64, now: i64) -> bool {
    (0..pause).contains(&(now - at))
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").finish_non_exhaustive()
    }
}

impl AccessToken {
    /// The token of `account`, which is asked for at `url`. `clock` is what signatures are dated and lifetimes counted
    /// by.
    pub(super) fn new(http: reqwest::Client, account: ServiceAccount, url: Url, clock: Clock) -> Self {
        AccessToken { http, account, url, clock, kept: RwLock::default(), turn: Semaphore::new(1) }
    }

    /// A token that serves, by `deadline`.
    ///
    /// # Errors
    /// The outcome of whoever wanted to send, when there is none and none is given.
    pub(super) async fn access(&self, deadline: Instant) -> Result<Access, Outcome> {
        match self.present() {
            Present::Fresh(access) => Ok(access),
            Present::Failed(outcome) => Err(outcome),
            Present::Old(access) => Ok(self.renewed(deadline).await.unwrap_or(access)),
            Present::None => {
                let turn = self.turn(deadline).await?;
                // Somebody else may have asked meanwhile.
                match self.present() {
                    Present::Fresh(access) | Present::Old(access) => Ok(access),
                    Present::Failed(outcome) => Err(outcome),
                    Present::None => self.ask(&turn, deadline).await,
                }
            }
        }
    }

    /// Another token than the one that Firebase refused; `None` when there is no sense in one.
    ///
    /// # Errors
    /// The outcome of whoever wanted to send, when none is given.
    pub(super) async fn instead_of(
        &self,
        refused: &Access,
        deadline: Instant,
    ) -> Result<Option<Access>, Outcome> {
        let turn = self.turn(deadline).await?;
        if let Some(settled) = self.refuse(refused) {
            return settled;
        }
        self.ask(&turn, deadline).await.map(Some)
    }

    /// Takes note that Firebase refuses a token. `None` when the next one is to be asked for now.
    fn refuse(&self, refused: &Access) -> Option<Result<Option<Access>, Outcome>> {
        let now = self.clock.now_ms();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &kept.token
            && token.access.number != refused.number
        {
            return Some(Ok(Some(token.access.clone())));
        }
        if let Some(failure) = kept.failure(now) {
            return Some(Err(failure.clone()));
        }
        if kept.refused_at.is_some_and(|at| is_within(REFUSAL_PAUSE_MS, at, now)) {
            return Some(Ok(None));
        }
        kept.token = None;
        kept.refused_at = Some(now);
        None
    }

    fn present(&self) -> Present {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).present(self.clock.now_ms())
    }

    async fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Outcome> {
        let timed_out = || grant::of_no_answer(shared::NoAnswer::TimedOut);
        match timeout_at(deadline, self.turn.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(timed_out()),
        }
    }

    /// A new token while an old one still serves; `None` when somebody else is asking for one, or none is given in a
    /// part of the time.
    async fn renewed(&self, deadline: Instant) -> Option<Access> {
        let turn = self.turn.try_acquire().ok()?;
        match self.present() {
            Present::Fresh(access) => Some(access),
            Present::Failed(_) => None,
            Present::Old(_) | Present::None => {
                let now = Instant::now();
                let limit = RENEWAL_LIMIT.min(deadline.saturating_duration_since(now) / 2);
                self.ask(&turn, now + limit).await.ok()
            }
        }
    }

    async fn ask(&self, _turn: &SemaphorePermit<'_>, deadline: Instant) -> Result<Access, Outcome> {
        let asked_at = self.clock.now_ms();
        let answer = self.call(deadline).await;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(grant) => {
                kept.failure = None;
                kept.given += 1;
                let access = Access { header: grant.header.clone(), number: kept.given };
                kept.token = Some(Token::new(access.clone(), &grant, asked_at));
                Ok(access)
            }
            Err(outcome) => {
                kept.failure = Some((self.clock.now_ms(), outcome.clone()));
                Err(outcome)
            }
        }
    }

    async fn call(&self, deadline: Instant) -> Result<Grant, Outcome> {
        let form = grant::form(&self.account, self.clock.now());
        let form = form.ok_or_else(|| grant::of_no_answer(shared::NoAnswer::Invalid))?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, self.url.clone());
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        *request.body_mut() = Some(form.into());
        let answer = shared::call(&self.http, request, deadline, MAX_BODY_BYTES).await;
        let answer = answer.map_err(grant::of_no_answer)?;
        grant::of_answer(answer.status, &answer.headers, answer.body.as_deref(), self.clock.now())
    }
}

impl Token {
    fn new(access: Access, grant: &Grant, asked_at: i64) -> Self {
        let after =
            |time: Duration| asked_at.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let room = ROOM.min(grant.lifetime / ROOM_PART);
        Token { access, renew_at: after(grant.lifetime - room), expires_at: after(grant.lifetime) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::outcomes::retry;

    fn kept(lifetime: u64, failed_at: Option<i64>) -> Kept {
        let header = HeaderValue::from_static("Bearer a");
        let grant = Grant { header: header.clone(), lifetime: Duration::from_secs(lifetime) };
        let token = Token::new(Access { header, number: 1 }, &grant, 0);
        let failure = failed_at.map(|at| (at, retry("token_timeout", None)));
        Kept { token: Some(token), given: 1, failure, refused_at: None }
    }

    fn present(kept: &Kept, now: i64) -> &'static str {
        match kept.present(now) {
            Present::Fresh(_) => "fresh",
            Present::Old(_) => "old",
            Present::Failed(_) => "failed",
            Present::None => "none",
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_expires() {
        let google = kept(3_599, None);
        let seconds = [(0, "fresh"), (3_298, "fresh"), (3_299, "old"), (3_598, "old"), (3_599, "none")];
        for (at, expected) in seconds {
            assert_eq!(present(&google, at * 1_000), expected, "{at}");
        }
        let short = kept(60, None);
        for (at, expected) in [(44, "fresh"), (45, "old"), (59, "old"), (60, "none")] {
            assert_eq!(present(&short, at * 1_000), expected, "{at}");
        }
        assert_eq!(present(&kept(0, None), 0), "none");
        assert_eq!(present(&Kept::default(), 0), "none");
    }

    #[test]
    fn after_a_failure_the_old_one_serves_and_nobody_asks_for_a_while() {
        let failed = kept(60, Some(50_000));
        for (at, expected) in
            [(50_000, "fresh"), (54_999, "fresh"), (55_000, "old"), (60_000, "none"), (49_999, "old")]
        {
            assert_eq!(present(&failed, at), expected, "{at}");
        }
        let expired = kept(60, Some(59_000));
        assert_eq!(present(&expired, 60_000), "failed");
        assert_eq!(present(&expired, 63_999), "failed");
        assert_eq!(present(&expired, 64_000), "none");
    }
}
