//! The one shared handle: what the gateway knows ([`Live`], replaced whole at a reload) and what it remembers
//! (store, windows, caches, connections; untouched by a reload).

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::{MutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::boot::{Boot, Connections};
use crate::config::snapshot::{Site, Snapshot};
use crate::credential::assertion::Assertions;
use crate::credential::keys::KeyError;
use crate::credential::password::{PasswordError, PasswordPool};
use crate::credential::{Authenticator, SiteCredentials};
use crate::limit::addresses::Addresses;
use crate::limit::{LimitError, Limiter, Subject};
use crate::mail::{MailError, Mailer, SealKey};
use crate::model::change::Change;
use crate::model::entropy::Entropy;
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::model::time::{Clock, Now};
use crate::observe::audit::{Act, Actor, Event};
use crate::observe::log::Logs;
use crate::observe::metrics::labels::{Cache, ChangeSource};
use crate::observe::metrics::{EndpointState, Metrics, SiteMetrics, UpstreamMetrics};
use crate::observe::spans::Spans;
use crate::observe::trace::Ids;
use crate::revocation::Epochs;
use crate::store::{Credentials, Store};
use crate::upstream::faces::Faces;
use crate::upstream::hygiene::Reserved;
use crate::upstream::{self, Budget, Gauges, Pools};

/// Turns for checking passwords, and how long one is waited for.
const SIGN_IN_TURNS: usize = 1024;
const SIGN_IN_WAIT: Duration = Duration::from_secs(5);
/// Accounts that are looked for at once, for sign-ins.
const LOOKING: usize = 2;

/// Everything a request needs.
pub struct Gateway {
    live: ArcSwap<Live>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
    /// The durable facts.
    pub store: Store,
    /// The windows.
    pub limiter: Limiter,
    /// What stopped counting.
    pub epochs: Arc<Epochs>,
    /// Verified credentials and cached facts.
    pub authenticator: Authenticator,
    /// Password hashing, bounded.
    pub passwords: PasswordPool,
    /// One sign-in to an account at a time: see [`Gateway::sign_in_turn`].
    sign_ins: Box<[tokio::sync::Mutex<()>]>,
    /// Which turn is whose: drawn anew by each process, so that nobody can choose names that share one with a victim.
    sign_in_order: RandomState,
    /// Looking for an account, a few at a time: see [`Gateway::account_to_sign_in`].
    looking: Semaphore,
    /// Connections to backends.
    pub pools: Pools,
    /// Makes mails and brings them on their way.
    pub mailer: Mailer,
    /// Open tunnels, until they end.
    pub tunnels: TaskTracker,
    /// What is done behind an answer.
    pub errands: Errands,
    /// Agents that have not shown who they are yet.
    pub waiting_agents: Waiting,
    /// Cancelled when open tunnels must end.
    pub hang_up: CancellationToken,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of requests, sign-ins and operator acts.
    pub logs: Logs,
    /// Who is calling, signed for backends.
    pub assertions: Assertions,
    /// Where ids of traces and spans come from.
    pub trace_ids: Ids,
    /// Recorded requests on their way to the collector; `None`: nothing is recorded.
    pub spans: Option<Arc<Spans>>,
    /// What one client connection may ask of us.
    pub bounds: Connections,
    /// Counts requests for hosts that nobody has.
    pub no_site: SiteMetrics,
    /// What the operator's API asks for; `None`: it is closed.
    operator_token: ArcSwapOption<Secret>,
    draining: AtomicBool,
    run: u64,
    requests: AtomicU64,
}

/// Room for agents whose first message has not come or is not checked yet.
#[derive(Debug)]
pub struct Waiting {
    /// In all.
    pub places: Arc<Semaphore>,
    /// By client address.
    pub addresses: Arc<Addresses>,
}

/// How many things are done behind answers at once.
const ERRANDS: usize = 64;

/// What is done behind an answer, because how long it takes is not for whoever asked to know.
#[derive(Debug)]
pub struct Errands {
    /// Each of them, until it is done.
    pub tasks: TaskTracker,
    /// Room for them.
    pub places: Arc<Semaphore>,
}

/// What the gateway knows: one configuration, ready to use.
#[derive(Debug)]
pub struct Live {
    /// The configuration as compiled.
    pub snapshot: Snapshot,
    /// Its sites, in the snapshot's order.
    pub sites: Vec<Arc<LiveSite>>,
    /// Whether any of them asks for clients' certificates.
    pub asks_clients: bool,
}

/// A site with what is prepared for it once a load.
#[derive(Debug)]
pub struct LiveSite {
    /// The site as compiled.
    pub site: Arc<Site>,
    /// Its keys, ready to verify and sign.
    pub credentials: SiteCredentials,
    /// Its counters.
    pub metrics: SiteMetrics,
    /// Its upstreams, in the site's order.
    pub upstreams: Vec<LiveUpstream>,
    /// Its public keys, as they are published.
    pub key_set: Bytes,
    /// What its queued mails are sealed under.
    pub seal: SealKey,
    /// What backends are told of its callers, as rendered before.
    pub faces: Faces,
    /// The names that only the gateway may set, in every spelling.
    pub reserved: Arc<Reserved>,
}

/// An upstream with its counters.
#[derive(Debug)]
pub struct LiveUpstream {
    /// Its name.
    pub name: Arc<str>,
    /// As configured.
    pub settings: Arc<upstream::Settings>,
    /// Its counters.
    pub metrics: UpstreamMetrics,
}

/// The parts a gateway is made of.
pub struct Machines {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
    /// The durable facts.
    pub store: Store,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of requests, sign-ins and operator acts.
    pub logs: Logs,
}

/// Why a gateway could not be made of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A site's token keys do not work.
    #[error("site {site}: {source}")]
    Keys {
        /// The site.
        site: String,
        /// What is wrong.
        source: KeyError,
    },
    /// The limiter's backend cannot be used at all.
    #[error("[limits]: {0}")]
    Limits(#[from] LimitError),
    /// The connections to backends cannot be prepared.
    #[error("upstreams: {0}")]
    Upstreams(#[from] upstream::tls::TlsError),
    /// Mails cannot be sent at all.
    #[error("[mail]: {0}")]
    Mail(#[from] MailError),
    /// The first password hash failed.
    #[error("passwords: {0}")]
    Passwords(#[from] PasswordError),
}

impl Live {
    /// Prepares a configuration for use; nothing of it is in force yet. `before`: the one that it will replace, of which it
    /// keeps what is left of second attempts.
    pub fn new(snapshot: Snapshot, metrics: &Metrics, before: Option<&Self>) -> Result<Self, MakeError> {
        let named = |name: &str| before?.sites.iter().find(|live| live.site.name == name).map(|live| &**live);
        let sites = snapshot.sites.iter().map(|site| LiveSite::new(site, metrics, named(&site.name)).map(Arc::new));
        let sites: Vec<Arc<LiveSite>> = sites.collect::<Result<_, _>>()?;
        let asks_clients = sites.iter().any(|live| live.site.client_certificates.is_some());
        Ok(Self { snapshot, sites, asks_clients })
    }

    /// The site for a `Host` or `:authority` value.
    pub fn site(&self, host: &str) -> Option<&Arc<LiveSite>> {
        self.sites.get(self.snapshot.hosts.find(host)?)
    }

    /// Whether what `peer` says of its own client is believed.
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        crate::rules::network::trusts(&self.snapshot.trusted_proxies, peer)
    }
}

impl LiveSite {
    fn new(site: &Arc<Site>, metrics: &Metrics, before: Option<&Self>) -> Result<Self, MakeError> {
        let credentials = SiteCredentials::new(Arc::clone(&site.credential))
            .map_err(|source| MakeError::Keys { site: site.name.clone(), source })?;
        let upstreams = site.upstreams.iter().map(|settings| {
            let known = before.and_then(|live| live.upstreams.iter().find(|at| *at.name == *settings.name));
            let budget = known.map_or_else(
                || Arc::new(Budget::counting(metrics.retries(&site.name, &settings.name))),
                |known| Arc::clone(&known.settings.budget),
            );
            Ok::<_, MakeError>(LiveUpstream {
                name: Arc::from(settings.name.as_str()),
                settings: Arc::new(upstream::Settings::clone(settings).prepare()?.spending(budget)),
                metrics: UpstreamMetrics::new(metrics, &site.name, &settings.name),
            })
        });
        Ok(Self {
            seal: SealKey::derive(&site.credential.pepper, &site.realm),
            key_set: Bytes::from(credentials.keys.jwks().to_string()),
            credentials,
            metrics: SiteMetrics::new(metrics, &site.name),
            upstreams: upstreams.collect::<Result<_, _>>()?,
            faces: Faces::default(),
            reserved: Arc::new(Reserved::new(site.identity.all().map(|(_, name)| name))),
            site: Arc::clone(site),
        })
    }
}

impl Gateway {
    /// Puts the machines together.
    pub fn new(boot: &Boot, live: Live, machines: Machines) -> Result<Self, MakeError> {
        let Machines { clock, entropy, store, metrics, logs } = machines;
        let epochs = Arc::new(Epochs::new());
        epochs.heard(clock.now().steady);
        let mut run = [0_u8; 8];
        entropy.fill(&mut run);
        Ok(Self {
            live: ArcSwap::from_pointee(live),
            limiter: Limiter::new(&boot.limit)?,
            authenticator: Authenticator::new(
                &boot.cache,
                store.clone(),
                Arc::clone(&epochs),
                Arc::clone(&entropy),
                Arc::clone(&metrics),
            ),
            passwords: PasswordPool::new(&boot.cache, Arc::clone(&entropy), Arc::clone(&metrics))?,
            looking: Semaphore::new(LOOKING),
            sign_ins: std::iter::repeat_with(tokio::sync::Mutex::default).take(SIGN_IN_TURNS).collect(),
            sign_in_order: RandomState::new(),
            pools: Pools::new(Some(upstream::tls::client_config()?)),
            mailer: Mailer::new(&boot.mail)?,
            assertions: Assertions::new(boot.cache.tokens),
            trace_ids: Ids::new(&*entropy),
            spans: boot.collector.as_ref().map(|to| Arc::new(Spans::new(to.queue, metrics.traces.clone()))),
            bounds: boot.connections.clone(),
            no_site: SiteMetrics::new(&metrics, SiteMetrics::NO_SITE),
            operator_token: ArcSwapOption::new(operator_token(boot)),
            tunnels: TaskTracker::new(),
            errands: Errands { tasks: TaskTracker::new(), places: Arc::new(Semaphore::new(ERRANDS)) },
            waiting_agents: Waiting {
                places: Arc::new(Semaphore::new(boot.connections.max_waiting_agents)),
                addresses: Addresses::new(boot.connections.max_waiting_agents_per_address),
            },
            hang_up: CancellationToken::new(),
            draining: AtomicBool::new(false),
            run: u64::from_le_bytes(run),
            requests: AtomicU64::new(0),
            clock,
            entropy,
            store,
            epochs,
            metrics,
            logs,
        })
    }

    /// The configuration in force.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts another configuration in force; requests under way keep theirs.
    pub fn replace(&self, live: Live, boot: &Boot) {
        self.operator_token.store(operator_token(boot));
        self.live.store(Arc::new(live));
    }

    /// Has the servers of `live` checked as it says, and no others: in tasks of their own, until the gateway stops.
    pub fn watch(&self, live: &Live) {
        let of_site = |live: &Arc<LiveSite>| {
            let name = live.site.name.clone();
            live.upstreams.iter().map(move |at| (name.clone(), Arc::clone(&at.settings))).collect::<Vec<_>>()
        };
        let upstreams: Vec<_> = live.sites.iter().flat_map(of_site).collect();
        let upstreams: Vec<_> = upstreams.iter().map(|(site, settings)| (site.as_str(), &**settings)).collect();
        self.pools.watch(&upstreams, &self.metrics);
    }

    /// What the operator's API asks for; `None`: it is closed.
    pub fn operator_token(&self) -> Option<Arc<Secret>> {
        self.operator_token.load_full()
    }

    /// An id for a request: unique to it, the same in log, backend and answer.
    pub fn request_id(&self) -> HeaderValue {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut digits = [0; 32];
        let digits = Uuid::from_u64_pair(self.run, count).simple().encode_lower(&mut digits);
        HeaderValue::from_str(digits).expect("hexadecimal digits may stand in a header")
    }

    /// Notes an act of the gateway itself.
    pub fn audit(&self, act: Act<'_>) {
        let time = self.clock.now().wall;
        self.logs.audit(&Event { time, actor: Actor::Gateway, act, site: None, client: None, request_id: None });
    }

    /// The account that somebody wants to sign in to. So few are looked for at once that what is only forwarded is served
    /// in between: five hundred who come in the same moment would all be looked up before it.
    pub async fn account_to_sign_in(&self, realm: &str, name: &str) -> Result<Option<Credentials>, Refusal> {
        let _place = self.looking.acquire().await.map_err(Refusal::internal)?;
        Ok(self.store.credentials(realm, name).await?)
    }

    /// Waits for the turn to check a password for `subject`, so that failures are counted one after another and
    /// successes need no count at all; `None` when that takes too long. Turns are shared by a few accounts: their
    /// number is fixed, so that inventing accounts costs no memory.
    pub async fn sign_in_turn(&self, subject: &Subject) -> Option<MutexGuard<'_, ()>> {
        let turn = usize::try_from(self.sign_in_order.hash_one(subject) % SIGN_IN_TURNS as u64).unwrap_or(0);
        tokio::time::timeout(SIGN_IN_WAIT, self.sign_ins[turn].lock()).await.ok()
    }

    /// Forgets what is cached of a fact that this process has just changed.
    pub fn forget(&self, change: &Change) {
        self.epochs.bump(change);
        self.metrics.revocations.changed(ChangeSource::Local, 1);
    }

    /// Says goodbye: readiness turns to no, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the gateway can serve, and if not, why.
    pub async fn readiness(&self) -> Result<(), String> {
        if self.draining.load(Ordering::SeqCst) {
            return Err("draining".to_owned());
        }
        let answered = tokio::time::timeout(Duration::from_secs(2), self.store.ping()).await;
        let ready = matches!(answered, Ok(Ok(())));
        self.metrics.store.up.set(ready.into());
        match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the store: {error}")),
            Err(_) => Err("the store does not answer".to_owned()),
        }
    }

    /// Brings gauges up to date that are read rather than counted.
    pub fn refresh_gauges(&self) {
        let now: Now = self.clock.now();
        let counts = self.authenticator.counts();
        for (cache, entries) in [
            (Cache::Tokens, counts.tokens),
            (Cache::Accounts, counts.accounts),
            (Cache::Sessions, counts.sessions),
            (Cache::Keys, counts.keys),
        ] {
            self.metrics.caches.entries(cache, entries);
        }
        let limits = &self.metrics.limits;
        limits.subjects.set(count(self.limiter.subjects()));
        limits.backend_up.set(i64::from(!self.limiter.is_degraded()));
        limits.backend_failures.inc_by(self.limiter.failures().saturating_sub(limits.backend_failures.get()));
        let waiting = self.bounds.max_waiting_agents.saturating_sub(self.waiting_agents.places.available_permits());
        self.metrics.agents.waiting.set(count(waiting));
        self.metrics.passwords.running.set(count(self.passwords.busy()));
        self.metrics.passwords.waiting.set(count(self.passwords.waiting()));
        self.metrics.endpoints(self.pools.gauges().into_iter().map(|pool| {
            let Gauges { server, open, idle, in_flight, waiting, ejected } = pool;
            (server, EndpointState { open, idle, in_flight, waiting, up: !ejected })
        }));
        self.metrics.revocations.lag(self.epochs.silent_for(now.steady));
    }
}

fn operator_token(boot: &Boot) -> Option<Arc<Secret>> {
    boot.admin.as_ref()?.token.clone().map(Arc::new)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("run", &self.run).finish_non_exhaustive()
    }
}
