//! Reading the configuration again: all of it is made ready first, then all of it counts, or none.
//!
//! Requests under way keep the configuration they began with. Windows, caches, connections and sessions are not
//! touched: they depend on what a configuration says by name (realm, route, key), not on its generation.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;

use super::expiry::Expiries;
use super::peppers;
use crate::config::footprint::{Footprint, Watch};
use crate::config::snapshot::{PepperFrom, Site};
use crate::config::{Boot, Loaded, Snapshot};
use crate::contract::source::Located;
use crate::gateway::{Gateway, Live};
use crate::model::secret::Secret;
use crate::observe::audit::Act;
use crate::observe::log;
use crate::tls::{Certificates, Prepared};

/// What a reload replaces things in.
pub(super) struct Reloader {
    pub gateway: Arc<Gateway>,
    /// What the process was started with.
    pub boot: Boot,
    pub certificates: Option<Arc<Certificates>>,
    pub expiries: Arc<Expiries>,
    /// [`Before::kept`] of what is in force.
    pub kept: Mutex<BTreeSet<PathBuf>>,
}

/// What is in force when a configuration is read.
#[derive(Debug, Default)]
pub struct Before {
    /// Its generation; 0: nothing is.
    pub generation: u64,
    /// Files of secrets that it has and that are made where they are missing: not these, while it runs.
    pub kept: BTreeSet<PathBuf>,
}

impl Reloader {
    /// What another reading has to know.
    pub fn before(&self) -> Before {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Before { generation: self.gateway.live().snapshot.generation, kept }
    }

    /// Has the store remember the peppers of sites that are new; where one of them cannot be, nothing of `loaded` counts.
    pub async fn remember_peppers(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let live = self.gateway.live();
        let sites = loaded.snapshot.sites.iter().map(|site| &**site).filter(|site| pepper(&live, site).is_none());
        peppers::remember(&self.gateway.store, sites, &loaded.made, self.gateway.clock.now().wall).await
    }

    /// Puts a configuration in force that was read again, or keeps the one there is and says why. Blocks for as long
    /// as parsing keys and reading certificates takes.
    pub fn take(&self, read: Result<Loaded, Vec<Located>>) {
        let Loaded { boot, snapshot, warnings, kept, made, .. } = match read {
            Ok(loaded) => loaded,
            Err(errors) => return self.refuse(&errors),
        };
        let generation = snapshot.generation;
        let (live, certificates) = match self.prepare(&boot, snapshot) {
            Ok(ready) => ready,
            Err(error) => return self.refuse(&[format!("{error:#}")]),
        };
        for warning in &warnings {
            tracing::warn!(%warning, "the configuration works and may not be meant");
        }
        tell_made(&made);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let later = self.boot.differences(&boot);
        for section in &later {
            tracing::warn!(section, "a change here counts after a restart");
        }
        let gateway = &self.gateway;
        let now = gateway.clock.now().wall;
        let upstreams: Vec<_> = live.sites.iter().flat_map(|live| &live.upstreams).map(|at| &*at.settings).collect();
        gateway.pools.retain(&upstreams);
        drop(upstreams);
        // Before it counts: requests find at once what is known of servers that were checked before.
        gateway.watch(&live);
        if let (Some(served), Some(prepared)) = (&self.certificates, certificates) {
            served.serve(prepared);
        }
        gateway.replace(live, &boot);
        self.expiries.look();
        if let Err(error) = gateway.logs.configure(&boot.log) {
            tracing::error!(%error, "the log's level stays");
        }
        gateway.metrics.config.loaded(generation, now);
        gateway.metrics.config.restart_pending(!later.is_empty());
        gateway.audit(Act::ConfigurationLoaded { generation });
        tracing::info!(generation, "the configuration was read again");
    }

    /// Everything that can fail.
    fn prepare(&self, boot: &Boot, snapshot: Snapshot) -> anyhow::Result<(Live, Option<Prepared>)> {
        log::check_level(&boot.log.level)?;
        let before = self.gateway.live();
        for site in &snapshot.sites {
            if pepper(&before, site).is_some_and(|pepper| *pepper != site.credential.pepper) {
                let name = &site.name;
                bail!(
                    "the pepper of site `{name}` is another: all that is under the old one would end ([site.api_keys])"
                );
            }
        }
        let live = Live::new(snapshot, &self.gateway.metrics, Some(&before))?;
        let now = self.gateway.clock.now().wall;
        let certificates = match (&self.certificates, &boot.tls) {
            (Some(served), Some(settings)) => Some(served.prepare(settings, now)?),
            _ => None,
        };
        Ok((live, certificates))
    }

    /// Says why the configuration before stays.
    pub fn refuse<E: Display>(&self, errors: &[E]) {
        for error in errors {
            tracing::error!(%error, "the configuration cannot be used; the one before stays");
        }
        self.gateway.metrics.config.refused();
        self.gateway.audit(Act::ConfigurationRefused { errors: errors.len() });
    }
}

/// The pepper that is in force for a site's realm; `None`: nothing is kept under one there.
fn pepper<'l>(live: &'l Live, site: &Site) -> Option<&'l Secret> {
    let own = live.sites.iter().map(|live| &live.site).find(|own| own.realm == site.realm)?;
    (own.pepper_from != PepperFrom::Nowhere).then_some(&own.credential.pepper)
}

/// Tells of secrets that nobody has a copy of yet.
pub(super) fn tell_made(files: &[PathBuf]) {
    for file in files.iter().map(|file| Path::display(file)) {
        tracing::warn!(%file, "a secret was made: keep it, and a copy elsewhere (what is under it ends with it)");
    }
}

/// Waits for a change of the files that were read.
pub(super) struct Watcher {
    watch: Arc<Mutex<Watch>>,
    every: Option<Duration>,
}

impl Watcher {
    /// `every`: how often to look; never without.
    pub fn new(read: Footprint, every: Option<Duration>) -> Self {
        Self { watch: Arc::new(Mutex::new(Watch::new(read))), every }
    }

    /// Resolves when something has changed and is at rest.
    pub async fn changed(&self) {
        let Some(every) = self.every else { return std::future::pending().await };
        loop {
            tokio::time::sleep(every).await;
            let watch = Arc::clone(&self.watch);
            // A disk on the network may take its time.
            let looked = move || watch.lock().unwrap_or_else(PoisonError::into_inner).changed();
            if tokio::task::spawn_blocking(looked).await.unwrap_or(false) {
                return;
            }
        }
    }
}
