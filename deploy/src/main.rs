//! The `peal` command. Everything it does is in the library beside it.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = peal::cli::Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(peal::cli::run(cli)),
        Err(error) => peal::output::Output::new(false).fail(&anyhow::Error::new(error)),
    }
}
