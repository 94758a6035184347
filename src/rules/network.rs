//! Whose address a request came from.
//!
//! `X-Forwarded-For` is a list that anyone may start and every proxy appends to, so only its right end
//! can be believed, and only as far as the proxies that wrote it are ours. Called once a request by the
//! edge; limits, logs and `X-Forwarded-*` towards backends use the one address this gives.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The address of the client: `peer` itself unless it is a trusted proxy, else the rightmost hop of
/// `forwarded` (the values of all `X-Forwarded-For` lines, in their order) that is not one.
///
/// A hop that is not an address ends the walk at the proxy that reported it: what stands left of it
/// cannot be believed. IPv4-mapped IPv6 addresses are IPv4 (RFC 4291 section 2.5.5.2), so that one
/// client has one address whatever the socket's family.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[IpNet],
) -> IpAddr {
    let mut client = peer.to_canonical();
    for hop in forwarded.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        if !trusts(trusted, client) {
            break;
        }
        let Some(address) = address(hop) else { break };
        client = address;
    }
    client
}

/// Whether `address` is one of the `trusted` proxies.
pub fn trusts(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| match (net, address) {
        // A network written in the mapped form still means its IPv4 addresses.
        (IpNet::V6(net), IpAddr::V4(address)) => net.contains(&address.to_ipv6_mapped()),
        (net, address) => net.contains(&address),
    })
}

/// The header by which trusted proxies tell who their client is. Only one is read: a proxy that writes one passes on
/// whatever a client has put into the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, with `-Proto` and `-Host`.
    #[default]
    #[serde(rename = "X-Forwarded-For")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What a client's address is counted by: itself, or for IPv6 its /64, the size of a subnet (RFC 4291 section 2.5.4),
/// so that hopping through one's own 2^64 addresses gains nothing.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One hop: an address, with a port where the proxy adds one (`192.0.2.1:443`, `[2001:db8::1]:443`).
pub(super) fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn walk(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        client_address(ip(peer), forwarded.iter().map(|value| value.as_bytes()), &nets(trusted)).to_string()
    }

    #[test]
    fn a_stranger_cannot_speak_for_another_address() {
        assert_eq!(walk("203.0.113.9", &["198.51.100.1"], &[]), "203.0.113.9");
        assert_eq!(walk("203.0.113.9", &["198.51.100.1"], &["10.0.0.0/8"]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_what_the_client_wrote_is_ignored() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(walk("10.0.0.1", &["198.51.100.1"], trusted), "198.51.100.1");
        assert_eq!(walk("10.0.0.1", &["1.1.1.1, 198.51.100.1"], trusted), "198.51.100.1");
        assert_eq!(walk("10.0.0.1", &["1.1.1.1", "198.51.100.1 , 10.2.3.4"], trusted), "198.51.100.1");
        // The client claims to be one of ours: it is still the rightmost hop that is not.
        assert_eq!(walk("10.0.0.1", &["10.9.9.9, 198.51.100.1"], trusted), "198.51.100.1");
    }

    #[test]
    fn the_walk_ends_at_garbage_and_at_the_end_of_the_list() {
        let trusted = &["10.0.0.0/8"];
        for garbage in ["", "unknown", "1.1.1.1.1", "1.1.1.1:port", "_hidden", "\u{e9}", "::1%eth0", "[::1", "2.2.2.2,"]
        {
            assert_eq!(walk("10.0.0.1", &["1.1.1.1", garbage], trusted), "10.0.0.1", "{garbage}");
        }
        assert_eq!(walk("10.0.0.1", &["1.1.1.1, x, 10.0.0.7"], trusted), "10.0.0.7");
        assert_eq!(walk("10.0.0.1", &[], trusted), "10.0.0.1");
        assert_eq!(walk("10.0.0.1", &["10.0.0.3, 10.0.0.2"], trusted), "10.0.0.3");
    }

    #[test]
    fn one_address_has_one_form_whatever_its_spelling() {
        for spelling in
            ["198.51.100.1", "198.51.100.1:4711", "::ffff:198.51.100.1", "[::ffff:198.51.100.1]:1", " 198.51.100.1\t"]
        {
            assert_eq!(walk("::ffff:10.0.0.1", &[spelling], &["10.0.0.0/8"]), "198.51.100.1", "{spelling}");
        }
        for spelling in ["2001:db8::1", "[2001:db8::1]", "[2001:DB8:0::1]:443"] {
            assert_eq!(walk("10.0.0.1", &[spelling], &["10.0.0.0/8"]), "2001:db8::1", "{spelling}");
        }
        assert!(trusts(&nets(&["::ffff:10.0.0.0/104"]), ip("10.1.2.3")));
        assert!(!trusts(&nets(&["::ffff:10.0.0.0/104", "fd00::/8"]), ip("11.1.2.3")));
    }

    proptest! {
        #[test]
        fn nothing_left_of_the_first_stranger_matters(
            lies in prop::collection::vec(any::<Vec<u8>>(), 0..4),
            client in any::<u32>(),
            proxies in prop::collection::vec(0_u8.., 0..4),
        ) {
            let client = IpAddr::from(client.to_be_bytes());
            let trusted = nets(&["10.0.0.0/8"]);
            prop_assume!(!trusts(&trusted, client));
            let mut honest = vec![client.to_string().into_bytes()];
            honest.extend(proxies.iter().map(|host| format!("10.0.0.{host}").into_bytes()));
            let spoofed: Vec<Vec<u8>> = lies.into_iter().chain([honest.join(&b", "[..])]).collect();
            let seen = client_address(ip("10.0.0.1"), spoofed.iter().map(Vec::as_slice), &trusted);
            prop_assert_eq!(seen, client);
        }

        #[test]
        fn any_bytes_give_an_address_and_only_a_trusted_peer_is_looked_behind(
            peer in any::<u128>(),
            values in prop::collection::vec(any::<Vec<u8>>(), 0..5),
        ) {
            let peer = IpAddr::from(Ipv6Addr::from(peer));
            let trusted = nets(&["10.0.0.0/8", "::/1"]);
            let seen = client_address(peer, values.iter().map(Vec::as_slice), &trusted);
            prop_assert!(trusts(&trusted, peer) || seen == peer.to_canonical());
        }
    }
}
