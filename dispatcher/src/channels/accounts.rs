//! Accounts at providers: which messages each takes, and whether it is in order.

use std::sync::Arc;
use std::time::Duration;

use peal_common::category::Class;
use peal_common::clock::Clock;
use peal_common::id::AppId;
use peal_common::outcome::Outcome;
use peal_common::recipient::Contact;
use peal_common::settings::RouteSettings;
use peal_nats::catalog::AccountVersion;
use peal_nats::turns::Turns;

use super::breaker::{Admission, Breaker, Opened};
use super::limit::Limit;
use super::outcomes::retry;
use super::probe::Probe;
use super::setup::Setup;
use super::{CALL_LIMIT, CallTime, Claim, Found, Message, Provider, apns};

/// Which messages an account takes: those that fit every rule that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    apps: Vec<AppId>,
    classes: Vec<Class>,
    /// Country calling codes with their `+`.
    countries: Vec<String>,
}

/// What a message looks like to a [`Route`].
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// The app.
    pub app: &'a AppId,
    /// The class of its category.
    pub class: Class,
    /// Where to, unless that does not matter yet.
    pub address: Option<&'a str>,
}

impl Route {
    /// The rules as they stand in the settings.
    #[must_use]
    pub fn from_settings(settings: &RouteSettings) -> Self {
        let RouteSettings { apps, classes, countries } = settings.clone();
        Route { apps, classes, countries }
    }

    /// How many rules there are.
    fn rules(&self) -> usize {
        [self.apps.is_empty(), self.classes.is_empty(), self.countries.is_empty()]
            .iter()
            .filter(|without| !**without)
            .count()
    }

    fn takes(&self, sought: &Sought<'_>) -> bool {
        let in_country = |address: &str| self.countries.iter().any(|code| address.starts_with(code.as_str()));
        (self.apps.is_empty() || self.apps.contains(sought.app))
            && (self.classes.is_empty() || self.classes.contains(&sought.class))
            && (self.countries.is_empty() || sought.address.is_none_or(in_country))
    }
}

/// What an account is made of.
#[derive(Debug, PartialEq)]
pub(super) struct MadeOf {
    /// What tells it from others at the same provider.
    pub(super) name: Option<String>,
    /// Which messages it takes.
    pub(super) route: Route,
    /// How many messages it is sent in a second at most.
    pub(super) rate: Option<u32>,
    /// Its provider, and how that is called.
    pub(super) setup: Setup,
}

/// An account at a provider, and whether it is in order.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    made_of: MadeOf,
    provider: Provider,
    breaker: Option<Breaker>,
    limit: Option<Limit>,
    /// Of which app it is, unless the settings name it.
    own: Option<AccountVersion>,
}

impl Account {
    /// An account, of which app it is unless the settings name it, and `provider`, which was set up as it says.
    pub(super) fn new(
        provider: Provider,
        made_of: MadeOf,
        own: Option<AccountVersion>,
        turns: &Turns,
    ) -> Self {
        let breaker = provider.is_shared().then(Breaker::default);
        let name: Arc<str> = match &made_of.name {
            Some(name) => format!("{}:{name}", provider.name()).into(),
            None => provider.name().into(),
        };
        let limit = made_of.rate.map(|per_second| Limit::new(&name, per_second, turns.clone()));
        Account { name, made_of, provider, breaker, limit, own }
    }

    /// Whether it would be made again of this.
    pub(super) fn is(&self, made_of: &MadeOf, own: Option<&AccountVersion>) -> bool {
        self.made_of == *made_of && self.own.as_ref() == own
    }

    /// Its client, where it is one for APNs.
    pub(super) const fn apns(&self) -> Option<&apns::Client> {
        match &self.provider {
            Provider::Apns(client) => Some(client),
            _ => None,
        }
    }

    const fn route(&self) -> &Route {
        &self.made_of.route
    }

    /// Of which app it is, unless the settings name it.
    pub(super) const fn own(&self) -> Option<&AccountVersion> {
        self.own.as_ref()
    }

    /// Its name in events, metrics and the API: that of the provider, and where the account has one of its own, that after
    /// a colon.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Why it is left alone at present, if it is.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        match &self.breaker {
            Some(breaker) => breaker.opened(),
            None => self.provider.refused(),
        }
    }

    /// Asks its provider whether it works. Whatever comes of it, the account is used as before.
    pub async fn probe(&self) -> Probe {
        self.provider.probe().await
    }

    /// Whether it has to be asked what became of what it sent.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.provider.is_asked()
    }

    /// Asks what became of a message: `None` while nobody knows. One that did not go out since the account is out of order
    /// opens its circuit.
    ///
    /// # Errors
    /// The outcome of the question, when the provider can't tell.
    pub async fn result(
        &self,
        provider_id: &str,
        contact: &Contact,
        clock: &Clock,
    ) -> Result<Option<Outcome>, Outcome> {
        let found = self.provider.result(provider_id, contact).await;
        if let (Some(breaker), Ok(Some(outcome @ Outcome::Unavailable { .. }))) = (&self.breaker, &found) {
            breaker.hear(outcome, clock.now());
        }
        found
    }

    /// Whether its provider may have taken a message all the same that it is to be asked for again.
    #[must_use]
    pub fn may_have_taken(&self, reason: &str, after: Option<Duration>) -> bool {
        self.provider.may_have_taken(reason, after)
    }

    /// Whether its provider can be asked for a message whose call was broken off.
    #[must_use]
    pub const fn is_searchable(&self) -> bool {
        self.provider.is_searchable()
    }

    /// Looks for a message that its provider may have taken. Takes at most [`CALL_LIMIT`].
    ///
    /// # Errors
    /// The outcome of the question, when the provider can't be asked now.
    pub async fn find(
        &self,
        message: &Message<'_>,
        call: CallTime,
        claim: Claim<'_>,
    ) -> Result<Found, Outcome> {
        let found = tokio::time::timeout(CALL_LIMIT, self.provider.find(message, call, claim)).await;
        found.unwrap_or_else(|_| Err(retry("timeout", None)))
    }

    /// Whether its provider tries another channel by itself where it reaches nobody.
    #[must_use]
    pub const fn has_failover(&self) -> bool {
        self.provider.has_failover()
    }

    async fn send(&self, message: &Message<'_>) -> Outcome {
        let turns = self.provider.turns(message);
        if let Some(limit) = self.limit.as_ref().filter(|_| turns > 0)
            && let Err(held_back) = limit.turns(turns, message.priority).await
        {
            return held_back;
        }
        self.provider.send(message).await
    }

    /// Waits up to `patience` until it may be called.
    pub(super) async fn admit(&self, patience: Duration) -> Result<Admitted<'_>, Opened> {
        let admission = match &self.breaker {
            Some(breaker) => breaker.admit(patience).await?,
            None => Admission::free(),
        };
        Ok(Admitted { account: self, admission })
    }
}

/// The accounts of one channel, those with more rules first.
#[derive(Debug, Default)]
pub(super) struct Accounts(Vec<Arc<Account>>);

impl Accounts {
    /// Adds one behind those that have as many rules.
    pub(super) fn add(&mut self, account: Arc<Account>) {
        let place = self.0.partition_point(|other| other.route().rules() >= account.route().rules());
        self.0.insert(place, account);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Account) -> bool) {
        self.0.retain(|account| keep(account));
    }

    pub(super) fn all(&self) -> &[Arc<Account>] {
        &self.0
    }

    /// Those that take a message, in the order in which they are tried. Where accounts were set up for such messages in
    /// particular, the general ones are not for them: who keeps advertising apart does not want it to move over when its
    /// account is out of order.
    pub(super) fn taking(&self, sought: &Sought<'_>) -> impl Iterator<Item = &Account> + Clone {
        let particular =
            self.0.iter().any(|account| account.route().rules() > 0 && account.route().takes(sought));
        let sought = *sought;
        let all = self.0.iter().map(Arc::as_ref);
        all.filter(move |account| {
            (account.route().rules() > 0) == particular && account.route().takes(&sought)
        })
    }

    /// Whether it matters where messages go.
    pub(super) fn tell_countries_apart(&self) -> bool {
        self.0.iter().any(|account| !account.route().countries.is_empty())
    }
}

/// An account that may be called, once.
#[derive(Debug)]
pub struct Admitted<'a> {
    account: &'a Account,
    admission: Admission<'a>,
}

impl<'a> Admitted<'a> {
    /// The account.
    #[must_use]
    pub const fn account(&self) -> &'a Account {
        self.account
    }

    /// Calls it when its turn has come. See [`Provider::send`]. A delivery that asked in vain, for all others, whether the
    /// account is back was held back like them: it burns no attempt.
    pub async fn send(self, message: &Message<'_>, clock: &Clock) -> Called<'a> {
        let outcome = self.account.send(message).await;
        let in_vain = self.admission.settle(&outcome, clock.now());
        let unclear = match &outcome {
            Outcome::Retry { reason, after } if self.account.may_have_taken(reason, *after) => {
                Some(reason.clone())
            }
            _ => None,
        };
        Called { account: self.account, outcome: of_probe(outcome, in_vain), unclear }
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Called<'a> {
    /// The account.
    pub account: &'a Account,
    /// What it is to the delivery.
    pub outcome: Outcome,
    /// Why the account may have taken the message all the same, where the outcome is to try it again.
    pub unclear: Option<String>,
}

/// What an outcome is to the delivery. `in_vain`: it was a probe, and the circuit stays open.
fn of_probe(outcome: Outcome, in_vain: Option<Opened>) -> Outcome {
    match (outcome, in_vain) {
        (Outcome::Retry { .. }, Some(opened)) => opened.held_back(),
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn whoever_asks_in_vain_burns_no_attempt() {
        let left = Duration::from_secs(7);
        let opened = || Some(Opened { cause: "http_502".to_owned(), since: Timestamp::UNIX_EPOCH, left });
        let held_back = Outcome::HeldBack { reason: "circuit_open: http_502".to_owned(), after: Some(left) };
        assert_eq!(of_probe(retry("http_502", None), opened()), held_back);
        assert_eq!(of_probe(retry("http_502", None), None), retry("http_502", None));
        // It may have been taken: that is not to be hidden.
        let ambiguous = Outcome::Ambiguous { reason: "http_502".to_owned() };
        assert_eq!(of_probe(ambiguous.clone(), opened()), ambiguous);
    }

    #[test]
    fn every_rule_must_fit() {
        let (shop, bank): (AppId, AppId) = ("shop".parse().unwrap(), "bank".parse().unwrap());
        let route = |apps: &[&AppId], classes: &[Class], countries: &[&str]| Route {
            apps: apps.iter().map(|app| (*app).clone()).collect(),
            classes: classes.to_vec(),
            countries: countries.iter().map(|code| (*code).to_owned()).collect(),
        };
        let sought = |class, address| Sought { app: &shop, class, address };
        let korean = sought(Class::Marketing, Some("+821012345678"));
        for (route, rules, takes) in [
            (route(&[], &[], &[]), 0, true),
            (route(&[&shop, &bank], &[], &[]), 1, true),
            (route(&[&bank], &[], &[]), 1, false),
            (route(&[], &[Class::Marketing], &["+1", "+82"]), 2, true),
            (route(&[], &[Class::Transactional], &["+82"]), 2, false),
            (route(&[&shop], &[Class::Marketing], &["+1"]), 3, false),
        ] {
            assert_eq!((route.rules(), route.takes(&korean)), (rules, takes), "{route:?}");
        }
        // Where it goes does not matter yet.
        assert!(route(&[], &[], &["+1"]).takes(&sought(Class::Marketing, None)));
    }
}
