//! The PROXY protocol: what a load balancer says of a connection before the connection's own first byte.
//!
//! Read only on listeners that are configured for it and only from trusted proxies (see `accept`): whoever may speak
//! it chooses the client's address. Versions 1 and 2 of the specification by `HAProxy`; what follows the addresses
//! (TLVs) is read over. Not a byte behind the header is taken from the socket.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest line of version 1, with its end.
const LINE: usize = 107;
/// The longest header of version 2 that is read, in bytes: addresses, and room for certificates' names in TLVs.
const MOST: usize = 4096;
/// No header of either version is shorter; a second version is known by these bytes.
const START: usize = 12;
/// A header of version 2 up to its addresses; its last two bytes are the length of what follows.
const FIXED: usize = 16;

/// On whose behalf a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behalf {
    /// Its own (`LOCAL`): a health check.
    Own,
    /// The client's at this address.
    Of(SocketAddr),
    /// Somebody's whom it does not name: a client without an internet address (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`). What
    /// that one says of others is no word of the proxy's.
    Somebody,
}

/// Reads the header: on whose behalf the connection comes.
pub async fn client(socket: &mut TcpStream) -> io::Result<Behalf> {
    let mut header = Vec::with_capacity(LINE);
    loop {
        let more = match look(&header)? {
            Look::Whole(client) => return Ok(client),
            Look::Bytes(more) => more,
            Look::Line(most) => rest_of_line(socket, most).await?,
        };
        let begun = header.len();
        header.resize(begun + more, 0);
        socket.read_exact(&mut header[begun..]).await?;
    }
}

/// What a header is, as far as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// So many bytes more belong to it for certain.
    Bytes(usize),
    /// It goes on to the end of the line, which has so many bytes more at most.
    Line(usize),
    /// All of it is there, and says this.
    Whole(Behalf),
}

/// Looks at a header's bytes so far: none of them is the client's own as long as no more were taken than this asked for.
pub fn look(header: &[u8]) -> Result<Look, io::ErrorKind> {
    let Some(start) = header.first_chunk::<START>() else { return Ok(Look::Bytes(START - header.len())) };
    if start == v2::PROTOCOL_PREFIX {
        let Some(fixed) = header.first_chunk::<FIXED>() else { return Ok(Look::Bytes(FIXED - header.len())) };
        let length = usize::from(u16::from_be_bytes([fixed[FIXED - 2], fixed[FIXED - 1]]));
        if length > MOST {
            return Err(io::ErrorKind::InvalidData);
        }
        match (FIXED + length).checked_sub(header.len()) {
            Some(more @ 1..) => Ok(Look::Bytes(more)),
            _ => read(header).map(Look::Whole),
        }
    } else if let Some(line) = header.strip_suffix(b"\n") {
        // Whoever parses the rest takes a CR for a space and a space for a CR.
        match line.strip_suffix(b"\r") {
            Some(line) if !line.contains(&b'\r') => read(header).map(Look::Whole),
            _ => Err(io::ErrorKind::InvalidData),
        }
    } else {
        LINE.checked_sub(header.len()).filter(|most| *most > 0).map(Look::Line).ok_or(io::ErrorKind::InvalidData)
    }
}

/// How many bytes of the line are there, at least one. Looked at only: what the client itself says stays where it is.
async fn rest_of_line(socket: &TcpStream, most: usize) -> io::Result<usize> {
    let mut seen = [0; LINE];
    let there = socket.peek(&mut seen[..most.min(LINE)]).await?;
    if there == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(seen[..there].iter().position(|byte| *byte == b'\n').map_or(there, |end| end + 1))
}

/// A whole header.
fn read(header: &[u8]) -> Result<Behalf, io::ErrorKind> {
    let of = |address: SocketAddr| Ok(Behalf::Of(address));
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(said) => of((said.source_address, said.source_port).into()),
            v1::Addresses::Tcp6(said) => of((said.source_address, said.source_port).into()),
            v1::Addresses::Unknown => Ok(Behalf::Somebody),
        },
        HeaderResult::V2(Ok(header)) => match (header.command, header.protocol, header.addresses) {
            (v2::Command::Local, ..) => Ok(Behalf::Own),
            // There is no HTTP over datagrams here: whoever says so is mistaken about more than that.
            (_, v2::Protocol::Datagram, _) => Err(io::ErrorKind::InvalidData),
            (_, _, v2::Addresses::IPv4(said)) => of((said.source_address, said.source_port).into()),
            (_, _, v2::Addresses::IPv6(said)) => of((said.source_address, said.source_port).into()),
            (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Ok(Behalf::Somebody),
        },
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(io::ErrorKind::InvalidData),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    fn says(header: &[u8]) -> String {
        match look(header) {
            Ok(Look::Whole(Behalf::Of(client))) => client.to_string(),
            Ok(Look::Whole(Behalf::Own)) => "the proxy".into(),
            Ok(Look::Whole(Behalf::Somebody)) => "somebody".into(),
            _ => "refused".into(),
        }
    }

    #[test]
    fn a_header_names_the_client() {
        assert_eq!(says(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), "192.0.2.1:56324");
        assert_eq!(says(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"), "[2001:db8::1]:56324");
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        assert_eq!(says(&v2(1, 0x11, &four)), "192.0.2.1:56324");
        let with_tlv = [&four[..], &[4, 0, 2, 0, 0]].concat();
        assert_eq!(says(&v2(1, 0x11, &with_tlv)), "192.0.2.1:56324");
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 1, 1, 80);
        assert_eq!(says(&v2(1, 0x21, &six)), "[2001::1]:80");
    }

    #[test]
    fn a_proxy_that_names_nobody_speaks_for_itself_only_where_it_says_so() {
        assert_eq!(says(&v2(0, 0, &[])), "the proxy");
        assert_eq!(says(&v2(0, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 2])), "the proxy");
        assert_eq!(says(b"PROXY UNKNOWN\r\n"), "somebody");
        assert_eq!(says(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), "somebody");
        assert_eq!(says(&v2(1, 0, &[])), "somebody");
        assert_eq!(says(&v2(1, 0x31, &[0; 216])), "somebody");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 2001:db8::1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 99999\r\n",
            b"PROXY TCP9 192.0.2.1 198.51.100.1 1 2\r\n",
            b"proxy TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \n",
            b"PROXY\rTCP4 192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY UNKNOWN\n",
        ] {
            assert_eq!(says(bad), "refused", "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(says(&v2(1, 0x11, &[192, 0, 2])), "refused");
        assert_eq!(says(&v2(1, 0x12, &[192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 2])), "refused", "datagrams");
        assert_eq!(says(&v2(7, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 2])), "refused");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_none(bytes in any::<Vec<u8>>(), command in any::<u8>(), family in any::<u8>()) {
            let _ = look(&bytes);
            let _ = look(&v2(command, family, &bytes));
        }
    }
}
