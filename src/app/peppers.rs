//! Whether a site goes on with the pepper that its keys, refresh tokens and codes are hashed under.
//!
//! With another one every API key would be unknown, and nothing would say so: a start with a pepper that is not the one
//! before is refused, as long as there is something to lose. So is one whose file was gone and has just been made anew;
//! that file is taken away again, so that the old one can be put back, and no later start takes it for the old one.

use std::path::PathBuf;

use anyhow::Context;

use crate::config::snapshot::{PepperFrom, Site};
use crate::model::time::Timestamp;
use crate::store::{Peppered, ShownPepper, Store};

/// The peppers that were made just now, until the store knows that they may be. A start that ends before takes them away again:
/// the next one would find a file, and believe it.
pub(super) struct Fresh(Vec<PathBuf>);

impl Fresh {
    pub(super) fn new<'a>(sites: impl IntoIterator<Item = &'a Site>, made: &[PathBuf]) -> Self {
        let file = |site: &'a Site| match &site.pepper_from {
            PepperFrom::File(file) => Some(file),
            PepperFrom::Nowhere | PepperFrom::Configuration => None,
        };
        Self(sites.into_iter().filter_map(file).filter(|file| made.contains(file)).cloned().collect())
    }

    /// They stay.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = std::fs::remove_file(file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                let file = file.display();
                tracing::error!(%file, %error, "this pepper was made just now and is no site's: remove it");
            }
        }
    }
}

/// Has the store remember the peppers of `sites`, or says why one of them cannot be. `made`: the files of secrets that
/// were made just now.
pub(super) async fn remember<'a>(
    store: &Store,
    sites: impl IntoIterator<Item = &'a Site>,
    made: &[PathBuf],
    now: Timestamp,
) -> anyhow::Result<()> {
    for site in sites {
        let file = match &site.pepper_from {
            PepperFrom::Nowhere => continue,
            PepperFrom::Configuration => None,
            PepperFrom::File(file) => Some(file),
        };
        let made = file.filter(|file| made.contains(file));
        let fingerprint = site.credential.pepper_fingerprint();
        let shown = ShownPepper { realm: &site.realm, fingerprint: &fingerprint, is_new: made.is_some() };
        let noted = store.note_pepper(shown, now).await.context("the store could not say which pepper it knows")?;
        let Peppered::Other { lost } = noted else { continue };
        let name = &site.name;
        let what = match (made, file) {
            (Some(made), _) => {
                let file = made.display();
                std::fs::remove_file(made).with_context(|| format!("the pepper {file}, just made, is in the way"))?;
                format!("the pepper of site `{name}` is gone ({file}), and the store has {lost} under it")
            }
            (None, Some(file)) => {
                let file = file.display();
                format!("the store has {lost} under another pepper of site `{name}` than the one in {file}")
            }
            (None, None) => format!("the store has {lost} under another pepper of site `{name}` than this one"),
        };
        anyhow::bail!(
            "{what}: put the old one back. Where it is lost for good, `tollgate secrets forget-pepper --site {name}` \
             gives up everything that is under it"
        );
    }
    Ok(())
}
