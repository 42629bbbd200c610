//! Gateway and dispatcher: whether they answer, and what they say of themselves.

use std::net::SocketAddr;

use peal_common::settings::Settings;
use reqwest::Client;

use super::{Check, Status};
use crate::up::ready;

/// Asks both, where the settings say that they listen.
pub async fn processes(settings: &Settings, client: &Client) -> Vec<Check> {
    vec![
        process("gateway", settings.gateway.listen, client).await,
        process("dispatcher", settings.dispatcher.listen, client).await,
    ]
}

/// The same of the hub, where a gateway is the only process there can be, and nothing is lost without it.
pub async fn gateway_of_hub(settings: &Settings, client: &Client) -> Check {
    match process("gateway", settings.gateway.listen, client).await {
        Check { status: Status::Fail, found, .. } => {
            let advice = "start peal-gateway here too: without it nobody answers queries over all regions, nor sees to events \
                          that the hub has missed";
            Check::warn("gateway", found, advice)
        }
        ready => ready,
    }
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
