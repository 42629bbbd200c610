//! Gateway and dispatcher: whether they answer, and what they say of themselves.

use std::net::SocketAddr;

use peal_common::settings::Settings;
use reqwest::Client;

use super::Check;
use crate::up::ready;

/// Asks both, where the settings say that they listen.
pub async fn processes(settings: &Settings, client: &Client) -> Vec<Check> {
    vec![
        process("gateway", settings.gateway.listen, client).await,
        process("dispatcher", settings.dispatcher.listen, client).await,
    ]
}

async fn process(name: &'static str, listen: SocketAddr, client: &Client) -> Check {
    let base = ready::base_url(listen);
    match ready::ask(client, &base).await {
        Ok(()) => Check::ok(name, format!("ready at {base}")),
        Err(missing) => {
            let advice = format!("start peal-{name}, or correct {name}.listen; its log says more");
            Check::fail(name, format!("not ready at {base}: {missing}"), advice)
        }
    }
}
