//! How many at once, in all and by client address.
//!
//! Not a window: a place is taken and given back. For what costs a descriptor and memory before anybody has shown
//! who they are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places.
#[derive(Debug)]
pub struct AtOnce {
    most: usize,
    most_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By network: an entry is there as long as a place of it is taken.
    each: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// This address has its share.
    Address,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<AtOnce>,
    network: IpAddr,
}

impl AtOnce {
    /// `most` places, of which one address may have `most_each`.
    pub fn new(most: usize, most_each: usize) -> Arc<Self> {
        Arc::new(Self { most, most_each, taken: Mutex::default() })
    }

    /// Takes a place for `address`.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let network = network(address);
        let mut taken = self.lock();
        let Taken { all, each } = &mut *taken;
        // Whoever has their share is told so, also while nobody could have more.
        if each.get(&network).is_some_and(|own| *own >= self.most_each) || self.most_each == 0 {
            return Err(Full::Address);
        }
        if *all >= self.most {
            return Err(Full::All);
        }
        *all += 1;
        *each.entry(network).or_default() += 1;
        Ok(Place { of: Arc::clone(self), network })
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Every change under the lock is whole at each point where it could panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.all -= 1;
        if let Some(own) = taken.each.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                taken.each.remove(&self.network);
            }
        }
    }
}

/// The address, or for IPv6 its /64, the size of a subnet (RFC 4291 section 2.5.4): whoever has one address of it has
/// all 2^64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_others_have_theirs() {
        let places = AtOnce::new(4, 2);
        let first = places.take(ip("192.0.2.1")).unwrap();
        let _second = places.take(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(places.take(ip("192.0.2.1")).unwrap_err(), Full::Address);
        let _other = places.take(ip("192.0.2.2")).unwrap();
        drop(first);
        let _again = places.take(ip("192.0.2.1")).unwrap();
        assert_eq!(places.taken(), 3);
    }

    #[test]
    fn ipv6_counts_by_subnet() {
        let places = AtOnce::new(4, 1);
        let _one = places.take(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(places.take(ip("2001:db8:0:1:ffff:ffff:ffff:ffff")).unwrap_err(), Full::Address);
        let _neighbour = places.take(ip("2001:db8:0:2::1")).unwrap();
    }

    #[test]
    fn all_together_have_no_more_than_there_are() {
        let places = AtOnce::new(2, 2);
        let held: Vec<_> = ["192.0.2.1", "192.0.2.2"].map(|address| places.take(ip(address)).unwrap()).into();
        assert_eq!(places.take(ip("192.0.2.3")).unwrap_err(), Full::All);
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.lock().each.is_empty(), "nothing is kept of whoever has left");
        assert!(places.take(ip("192.0.2.3")).is_ok());
    }
}
