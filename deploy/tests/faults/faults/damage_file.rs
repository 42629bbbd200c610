//! A program is killed, and one of its local files is not what it was when it starts again: it must make it anew from the
//! streams and not answer from it before.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, RngExt as _};

use super::{Fault, kill_dispatcher};

/// How many bytes are changed in a file.
const CHANGED: usize = 64;

/// A damaged file of a gateway or a dispatcher.
pub const FAULT: Fault = Fault {
    name: "local file damaged",
    resends: Some(kill_dispatcher::ON_ITS_WAY),
    strike: |region, rng| {
        async {
            let program = region.any_program(rng);
            program.kill().await?;
            damage(program.data(), rng)?;
            program.start()?;
            program.until_ready().await
        }
        .boxed()
    },
};

fn damage(folder: &Path, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut files: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "redb"));
    files.sort();
    let path = files.choose(rng).context("there is no file to damage")?;
    let mut bytes = fs::read(path)?;
    match rng.random_range(0..4) {
        0 => bytes.truncate(bytes.len() / 2),
        1 => rng.fill_bytes(&mut bytes),
        2 => bytes.clear(),
        _ => (0..bytes.len()).sample(rng, CHANGED).into_iter().for_each(|at| bytes[at] ^= 0xff),
    }
    Ok(fs::write(path, bytes)?)
}
