//! Where clients come in: sockets that somebody else has opened (a service manager, the process before this one), else
//! our own.
//!
//! A socket that stays open from one process to the next keeps its queue: nobody is refused or reset in between.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::observe::metrics::labels::Listener;

/// Connections that may wait in the kernel's queue.
const BACKLOG: i32 = 4096;

/// A socket that listens, and for whom.
#[derive(Debug)]
pub(super) struct Listening {
    /// Who comes in by it.
    pub scheme: Listener,
    /// It stands in place of the configured addresses, also in the process after this one.
    pub fixed: bool,
    /// The socket; it does not block.
    pub socket: TcpListener,
}

/// Sockets that listened before this process began to.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Given>);

/// One of them.
#[derive(Debug)]
struct Given {
    /// Who comes in by it; `None`: whoever is configured for its address.
    scheme: Option<Listener>,
    fixed: bool,
    socket: TcpListener,
}

/// The listeners that are configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub https: &'a [SocketAddr],
    pub http: &'a [SocketAddr],
    pub admin: &'a [SocketAddr],
}

impl Inherited {
    /// What the service manager gives by `LISTEN_FDS` (systemd's socket activation); `names` is its `LISTEN_FDNAMES`.
    /// To be called before there are threads: it takes the variables out of the environment.
    pub fn from_manager(names: Option<&str>) -> anyhow::Result<Self> {
        let mut sockets = ListenFd::from_env();
        let names: Vec<&str> = names.map_or_else(Vec::new, |names| names.split(':').collect());
        let mut given = Vec::new();
        for at in 0..sockets.len() {
            let socket = sockets.take_tcp_listener(at).context("a socket of LISTEN_FDS is no TCP listener")?;
            given.extend(socket.map(|socket| Given::named(names.get(at).copied().unwrap_or_default(), socket)));
        }
        Ok(Self(given))
    }

    /// What the process before this one hands over.
    pub(super) fn from_before(sockets: Vec<Listening>) -> Self {
        let given = |Listening { scheme, fixed, socket }| Given { scheme: Some(scheme), fixed, socket };
        Self(sockets.into_iter().map(given).collect())
    }

    /// Every listener that is wanted, or none: nobody is served by a process that is about to fail.
    ///
    /// Sockets that a service manager calls `https`, `http` or `admin` stand in place of the configured addresses; one
    /// of another name, or handed over, serves the configured address that it is bound to. What is left is bound here.
    pub(super) fn listen(mut self, wanted: Wanted<'_>) -> anyhow::Result<Vec<Listening>> {
        let mut all = Vec::new();
        for (scheme, addresses) in
            [(Listener::Https, wanted.https), (Listener::Http, wanted.http), (Listener::Admin, wanted.admin)]
        {
            let fixed = self.take(|given| Ok(given.fixed && given.scheme == Some(scheme)))?;
            if !fixed.is_empty() {
                all.extend(fixed.into_iter().map(|socket| Listening { scheme, fixed: true, socket }));
                continue;
            }
            for address in addresses {
                let found = self.take(|given| given.serves(scheme, *address))?;
                let apart =
                    addresses.iter().any(|other| other.is_ipv4() && is_every(other) && other.port() == address.port());
                let sockets = if found.is_empty() { vec![bind(*address, apart)?] } else { found };
                all.extend(sockets.into_iter().map(|socket| Listening { scheme, fixed: false, socket }));
            }
        }
        for Given { scheme, socket, .. } in &self.0 {
            let address = socket.local_addr()?;
            let Some(scheme) = scheme else {
                anyhow::bail!(
                    "the service manager gives a socket at {address}, which is no address of [listen]: call it https, http or admin (FileDescriptorName=)"
                );
            };
            tracing::warn!(%address, scheme = scheme.name(), "nothing listens here any more");
        }
        for Listening { socket, .. } in &all {
            socket.set_nonblocking(true)?;
        }
        Ok(all)
    }

    fn take(&mut self, fits: impl Fn(&Given) -> std::io::Result<bool>) -> std::io::Result<Vec<TcpListener>> {
        let mut taken = Vec::new();
        let mut at = 0;
        while at < self.0.len() {
            if fits(&self.0[at])? {
                taken.push(self.0.remove(at).socket);
            } else {
                at += 1;
            }
        }
        Ok(taken)
    }
}

impl Given {
    fn named(name: &str, socket: TcpListener) -> Self {
        let scheme = Listener::ALL.iter().find(|scheme| scheme.name() == name).copied();
        Self { scheme, fixed: scheme.is_some(), socket }
    }

    /// Whether it is bound to a configured address. Port 0 left the choice to the system, and it has chosen.
    fn serves(&self, scheme: Listener, wanted: SocketAddr) -> std::io::Result<bool> {
        let bound = self.socket.local_addr()?;
        let there = bound.ip() == wanted.ip() && [0, bound.port()].contains(&wanted.port());
        Ok(there && self.scheme.is_none_or(|own| own == scheme))
    }
}

fn is_every(address: &SocketAddr) -> bool {
    address.ip().is_unspecified()
}

/// `apart`: `0.0.0.0` has a listener of its own at this port. Without one `[::]` takes what comes by IPv4 as well.
fn bind(address: SocketAddr, apart: bool) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() && is_every(&address) && apart {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<TcpListener, std::io::Error>(socket.into())
    };
    bind().map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => "something else listens there: stop it, or choose another port",
            ErrorKind::AddrNotAvailable => "this machine has no such address: 0.0.0.0 and [::] stand for all it has",
            ErrorKind::PermissionDenied => {
                "a port below 1024 asks for a privilege: CAP_NET_BIND_SERVICE, or a socket from the service manager"
            }
            _ => "look at [listen], or at --https, --http and --admin",
        };
        anyhow::Error::new(error).context(format!("{address} cannot be listened on: {remedy}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn at(address: &str) -> [SocketAddr; 1] {
        [address.parse().unwrap()]
    }

    fn wanted<'a>(https: &'a [SocketAddr], admin: &'a [SocketAddr]) -> Wanted<'a> {
        Wanted { https, http: &[], admin }
    }

    fn addresses(listening: &[Listening]) -> Vec<(Listener, bool, SocketAddr)> {
        listening.iter().map(|it| (it.scheme, it.fixed, it.socket.local_addr().unwrap())).collect()
    }

    fn before(scheme: Listener, socket: TcpListener) -> Listening {
        Listening { scheme, fixed: false, socket }
    }

    #[test]
    fn what_is_handed_over_serves_the_address_it_did_and_never_anybody_else() {
        let (https, other, gone) = (any(), any(), any());
        let (first, second) = (https.local_addr().unwrap(), other.local_addr().unwrap());
        let sockets =
            vec![before(Listener::Https, https), before(Listener::Admin, other), before(Listener::Http, gone)];
        let all = Inherited::from_before(sockets).listen(wanted(&[first], &at("127.0.0.1:0"))).unwrap();
        assert_eq!(addresses(&all), [(Listener::Https, false, first), (Listener::Admin, false, second)]);
        // The operator's socket never becomes a client's, whatever its address.
        let admin = all.into_iter().nth(1).unwrap();
        let error = Inherited::from_before(vec![admin]).listen(wanted(&[second], &[])).unwrap_err();
        assert!(error.to_string().contains("cannot be listened on"), "{error}");
        // What is not handed over is bound.
        let fresh = Inherited::default().listen(wanted(&at("127.0.0.1:0"), &[])).unwrap();
        assert_eq!(fresh.len(), 1);
    }

    #[test]
    fn every_address_of_both_families_can_be_had_at_one_port() {
        let port = any().local_addr().unwrap().port();
        for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
            let both: Vec<SocketAddr> = order.iter().map(|ip| format!("{ip}:{port}").parse().unwrap()).collect();
            let all = Inherited::default().listen(wanted(&both, &[])).unwrap();
            assert_eq!(all.len(), 2, "{order:?}");
            for ip in ["127.0.0.1", "[::1]"] {
                std::net::TcpStream::connect(format!("{ip}:{port}")).unwrap();
            }
        }
        let alone = Inherited::default().listen(wanted(&at(&format!("[::]:{port}")), &[])).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("[::] alone serves both");
        let error = Inherited::default().listen(wanted(&at(&format!("127.0.0.1:{port}")), &[])).unwrap_err();
        assert!(error.to_string().contains("something else listens there"), "{error}");
        drop(alone);
        let error = Inherited::default().listen(wanted(&at("192.0.2.1:0"), &[])).unwrap_err().to_string();
        assert!(error.contains("no such address"), "{error}");
    }

    #[test]
    fn a_managers_socket_counts_by_its_name_else_by_its_address_also_after_a_handover() {
        let (named, by_address) = (any(), any());
        let (first, second) = (named.local_addr().unwrap(), by_address.local_addr().unwrap());
        let given = vec![Given::named("https", named), Given::named("tollgate.socket", by_address)];
        let nobody = at("192.0.2.1:443");
        let all = Inherited(given).listen(wanted(&nobody, &[second])).unwrap();
        let both = [(Listener::Https, true, first), (Listener::Admin, false, second)];
        assert_eq!(addresses(&all), both);
        let again = Inherited::from_before(all).listen(wanted(&nobody, &[second])).unwrap();
        assert_eq!(addresses(&again), both);

        let stranger = Inherited(vec![Given::named("x", any())]);
        let error = stranger.listen(wanted(&at("127.0.0.2:0"), &[])).unwrap_err().to_string();
        assert!(error.contains("gives a socket at 127.0.0.1:"), "{error}");
    }
}
