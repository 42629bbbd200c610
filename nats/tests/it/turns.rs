//! Several processes keep one rate limit.

use std::time::Duration;

use peal_nats::Connection;
use peal_nats::topology::{Current, Options, Topology, apply, plan};
use peal_nats::turns::{NoTurn, Rate, Turns};
use tokio::time::Instant;

use crate::support::{self, eventually};

async fn with_streams() -> (support::Running, Connection) {
    let (running, connection) = support::connected().await;
    make_streams(&connection).await;
    (running, connection)
}

async fn make_streams(connection: &Connection) {
    let topology = Topology::for_region(&connection.region, &Options::laptop());
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    apply(&connection.jetstream, &plan(&current, &topology), false).await.unwrap();
}

/// When as many turns are, taken one after another.
async fn take(turns: Turns, rate: Rate, count: usize) -> Vec<Instant> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let wait = turns.take("an.account", rate, 1, Duration::from_secs(20)).await.unwrap();
        taken.push(Instant::now() + wait);
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_turn_that_another_one_has() {
    const EACH: usize = 100;
    // One at a time, and several of them at once.
    for period in [Duration::from_millis(20), Duration::from_millis(4)] {
        let (running, _) = with_streams().await;
        let rate = Rate { period, burst: 1 };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let turns = Turns::shared(support::connection(&running.server).await);
            tasks.spawn(take(turns, rate, EACH));
        }
        let mut taken = tasks.join_all().await.concat();
        taken.sort();
        // How long ago the servers' time was asked for is known to half of that question's way, and to a millisecond.
        let error = Duration::from_millis(50);
        for (place, turn) in taken.iter().enumerate() {
            for (further, other) in taken[place..].iter().enumerate().step_by(25) {
                let least = period * u32::try_from(further).unwrap();
                assert!(*other + error >= *turn + least, "{further} turns in {:?}", *other - *turn);
            }
        }
        let most = period * u32::try_from(3 * EACH).unwrap() * 2;
        assert!(*taken.last().unwrap() < taken[0] + most, "turns are wasted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_keeps_all_from_an_account() {
    let (running, connection) = with_streams().await;
    let (one, other) =
        (Turns::shared(connection.clone()), Turns::shared(support::connection(&running.server).await));
    let rate = Rate { period: Duration::from_millis(1), burst: 1 };
    for turns in [&one, &other] {
        turns.take("an.account", rate, 1, Duration::from_secs(1)).await.unwrap();
    }
    one.freeze("an.account", Duration::from_secs(3600)).await.unwrap();
    one.freeze("an.account", Duration::from_secs(1)).await.unwrap();
    assert!(other.frozen("an.account").await.unwrap().unwrap() > Duration::from_secs(3590));
    let frozen = |turn: Result<Duration, NoTurn>| matches!(turn, Err(NoTurn::Frozen(_)));
    assert!(frozen(one.take("an.account", rate, 1, Duration::ZERO).await));
    // The other one has some in hand still, and then has to ask.
    eventually("the other one knows", || async {
        frozen(other.take("an.account", rate, 1, Duration::from_secs(1)).await)
    })
    .await;
    assert_eq!(other.frozen("another.account").await.unwrap(), None);
    other.take("another.account", rate, 1, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_again_knows_what_was_taken() {
    let (mut running, connection) = with_streams().await;
    let turns = Turns::shared(connection.clone());
    let rate = Rate { period: Duration::from_millis(100), burst: 1 };
    turns.take("an.account", rate, 1, Duration::ZERO).await.unwrap();
    turns.freeze("another.account", Duration::from_secs(3600)).await.unwrap();
    running.server.kill().await.unwrap();
    assert!(matches!(turns.freeze("an.account", Duration::ZERO).await, Err(NoTurn::Unavailable(_))));
    running.server.restart().await.unwrap();
    eventually("there are turns again", || async {
        turns.take("an.account", rate, 1, Duration::ZERO).await.is_ok()
    })
    .await;
    assert!(turns.frozen("another.account").await.unwrap().is_some());
}
