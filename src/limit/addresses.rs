//! Places by client address: one client must not take those of all others.
//!
//! Not a window: a place is taken and given back. For what costs a descriptor and memory before anybody has shown who
//! they are: connections (`edge::accept`), and agents that have said nothing yet (`edge::agent`).

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;

use crate::rules::network;

/// How many places each address holds.
#[derive(Debug)]
pub struct Addresses {
    most: usize,
    held: DashMap<IpAddr, usize>,
}

impl Addresses {
    /// At most `most` for each; 0: as many as there are places.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: DashMap::new() })
    }

    /// A place for `client`, counted by /64 where it speaks IPv6; `None` when it has all that it may have.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<AddressPlace> {
        if self.most == 0 {
            return Some(AddressPlace(None));
        }
        let address = network::neighbourhood(client);
        let mut held = self.held.entry(address).or_insert(0);
        if *held >= self.most {
            return None;
        }
        *held += 1;
        Some(AddressPlace(Some((Arc::clone(self), address))))
    }
}

/// A place among those of one address, given back when it is dropped.
#[derive(Debug, Default)]
pub struct AddressPlace(Option<(Arc<Addresses>, IpAddr)>);

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else { return };
        if let Some(mut held) = addresses.held.get_mut(&address) {
            *held -= 1;
        }
        // Whoever has gone is forgotten: strangers must not fill the memory.
        addresses.held.remove_if(&address, |_, held| *held == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_takes_no_more_than_its_own_and_is_forgotten_when_it_leaves() {
        let addresses = Addresses::new(2);
        let (first, second) = (addresses.take(ip("192.0.2.1")).unwrap(), addresses.take(ip("::ffff:192.0.2.1")));
        assert!(second.is_some() && addresses.take(ip("192.0.2.1")).is_none());
        let other = addresses.take(ip("192.0.2.2"));
        assert!(other.is_some(), "a neighbour has its own");
        drop(first);
        assert!(addresses.take(ip("192.0.2.1")).is_some());
        drop((second, other));
        assert!(addresses.held.is_empty());
    }

    #[test]
    fn an_ipv6_subnet_counts_as_one() {
        let addresses = Addresses::new(1);
        let held = addresses.take(ip("2001:db8:1:2::1"));
        assert!(held.is_some() && addresses.take(ip("2001:db8:1:2:ffff::9")).is_none());
        assert!(addresses.take(ip("2001:db8:1:3::1")).is_some());
    }

    #[test]
    fn without_a_bound_nothing_is_kept() {
        let addresses = Addresses::new(0);
        let held: Vec<_> = (0..100).map(|_| addresses.take(ip("192.0.2.1"))).collect();
        assert!(held.iter().all(Option::is_some) && addresses.held.is_empty());
    }
}
