//! The token with which a provider signs in (Apple, "Establishing a token-based connection to APNs").

use std::fmt;
use std::sync::{PoisonError, RwLock};

use http::header::HeaderValue;
use jiff::Timestamp;
use p256::ecdsa::SigningKey;
use serde_json::{Value, json};

use crate::channels::jwt;

/// It is signed anew at this age, in seconds: before the hour after which Apple refuses it, with room for clocks that
/// differ.
const RENEW: i64 = 50 * 60;
/// It is not signed anew before this age, in seconds: Apple refuses whoever does so more often.
const LEAST: i64 = 20 * 60;
/// How far into the future a token may be dated, in seconds. When the clock was set back by more than that, the token
/// is signed anew.
const SKEW: i64 = 60;

/// The provider token of one key.
pub(super) struct ProviderToken {
    key: SigningKey,
    header: Value,
    team_id: String,
    word: RwLock<Option<Word>>,
}

/// A signed token.
struct Word {
    /// The value of `authorization`.
    header: HeaderValue,
    /// When it was signed, in seconds since the epoch.
    issued: i64,
}

impl Word {
    const fn age(&self, now: i64) -> i64 {
        now - self.issued
    }
}

impl fmt::Debug for ProviderToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderToken").finish_non_exhaustive()
    }
}

impl ProviderToken {
    pub(super) fn new(key: SigningKey, key_id: &str, team_id: String) -> Self {
        let header = json!({"alg": "ES256", "kid": key_id});
        ProviderToken { key, header, team_id, word: RwLock::new(None) }
    }

    /// Whether it is the token of this key of that team.
    pub(super) fn is_of(&self, key: &SigningKey, key_id: &str, team_id: &str) -> bool {
        self.key == *key && self.header["kid"] == key_id && self.team_id == team_id
    }

    /// The value of `authorization`: the same for everybody until it is old. `None` never happens with a token of
    /// ASCII.
    pub(super) fn authorization(&self, now: Timestamp) -> Option<HeaderValue> {
        let now = now.as_second();
        let fresh = |word: &Option<Word>| {
            let word = word.as_ref().filter(|word| (-SKEW..RENEW).contains(&word.age(now)))?;
            Some(word.header.clone())
        };
        if let Some(header) = fresh(&self.word.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(header);
        }
        let mut word = self.word.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have signed it meanwhile.
        fresh(&word).or_else(|| self.sign(&mut word, now))
    }

    /// Another value than `refused`, which Apple calls expired. `None` when there can't be one yet: it would be refused
    /// for coming too soon, and since ours is young it is the clocks that differ.
    pub(super) fn renewed(&self, refused: &HeaderValue, now: Timestamp) -> Option<HeaderValue> {
        let now = now.as_second();
        let mut word = self.word.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = word.as_ref() {
            if word.header != *refused {
                return Some(word.header.clone());
            }
            if (-SKEW..LEAST).contains(&word.age(now)) {
                return None;
            }
        }
        self.sign(&mut word, now)
    }

    fn sign(&self, word: &mut Option<Word>, now: i64) -> Option<HeaderValue> {
        let token = jwt::es256(&self.key, &self.header, &json!({"iss": self.team_id, "iat": now}));
        let mut header = HeaderValue::try_from(format!("bearer {token}")).ok()?;
        header.set_sensitive(true);
        *word = Some(Word { header: header.clone(), issued: now });
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: i64 = 1_700_000_000;

    fn signed() -> (ProviderToken, HeaderValue) {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let token = ProviderToken::new(key, "ABC123DEFG", "DEF123GHIJ".to_owned());
        let first = token.authorization(at(0)).unwrap();
        (token, first)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(SIGNED + seconds).unwrap()
    }

    #[test]
    fn a_token_serves_until_it_is_old_or_the_clock_is_set_back() {
        for (seconds, same) in [(0, true), (2_999, true), (3_000, false), (-60, true), (-61, false)] {
            let (token, first) = signed();
            let then = token.authorization(at(seconds)).unwrap();
            assert_eq!(then == first, same, "{seconds}");
            assert_eq!(token.authorization(at(seconds)).unwrap(), then, "and stays so");
        }
    }

    #[test]
    fn a_refused_token_is_renewed_once_for_all_and_not_too_soon() {
        for (seconds, renewed) in [(0, false), (1_199, false), (1_200, true), (-61, true)] {
            let (token, first) = signed();
            let then = token.renewed(&first, at(seconds));
            assert_eq!(then.is_some(), renewed, "{seconds}");
            if let Some(then) = then {
                assert_ne!(then, first);
                assert_eq!(token.renewed(&first, at(seconds)), Some(then), "for whoever comes second");
            }
        }
    }

    #[test]
    fn it_is_that_of_one_key_of_one_team() {
        let (token, _) = signed();
        let key = |byte| SigningKey::from_slice(&[byte; 32]).unwrap();
        assert!(token.is_of(&key(7), "ABC123DEFG", "DEF123GHIJ"));
        assert!(!token.is_of(&key(8), "ABC123DEFG", "DEF123GHIJ"));
        assert!(!token.is_of(&key(7), "ABC123DEFH", "DEF123GHIJ"));
        assert!(!token.is_of(&key(7), "ABC123DEFG", "DEF123GHIK"));
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let (token, first) = signed();
        assert_eq!(format!("{token:?} {first:?}"), "ProviderToken { .. } Sensitive");
    }
}
