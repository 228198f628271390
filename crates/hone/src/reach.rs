//! Addresses of servers as people open them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::output::note;

/// Where a browser on this machine finds a server that listens there: the address that stands for all of the machine's is no place to go to.
pub fn link_of(listens: SocketAddr) -> SocketAddr {
    let address = match listens.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listens.port())
}

/// Says how others reach a server that listens on all addresses of this machine; `option` gives it a name.
pub fn say_how_others_come(listens: SocketAddr, option: &str) {
    if let Some(text) = how_others_come(listens, option) {
        note(&text);
    }
}

fn how_others_come(listens: SocketAddr, option: &str) -> Option<String> {
    listens.ip().is_unspecified().then(|| {
        format!(
            "it listens on all addresses of this machine: others open http://ADDRESS:{}, with this machine's address in the network, \
             or its name where {option} says it",
            listens.port()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_can_be_opened() {
        for (listens, link) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:8008", "[::1]:8008"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("192.168.1.7:9", "192.168.1.7:9"),
            ("[fe80::1]:9", "[fe80::1]:9"),
        ] {
            let listens: SocketAddr = listens.parse().unwrap();
            assert_eq!(link_of(listens).to_string(), link);
            let said = how_others_come(listens, "--name HOST");
            assert_eq!(said.is_some(), link_of(listens) != listens);
            assert!(said.is_none_or(|said| said.contains(&format!("http://ADDRESS:{},", listens.port()))));
        }
    }
}
