//! Another path for the backend than the client's, where a route says so.
//!
//! Everything is decided on the client's path; what is made of it here is fixed by the route alone, and as canonical as
//! that was (`rules::path`): a prefix that ends at a slash goes, another comes. Called by `edge::forward`.

use std::borrow::Cow;

/// What a route does to the path of its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Taken off the front: canonical, without a last slash; empty for nothing.
    pub strip: String,
    /// Put in front of what is left: canonical, without a last slash; empty for nothing.
    pub add: String,
}

impl Rewrite {
    /// The path that the backend gets for `path`, which is canonical and at or below `strip`.
    pub fn path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let rest = path.strip_prefix(&*self.strip).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match (rest.unwrap_or(path), self.add.as_str()) {
            ("", "") => Cow::Borrowed("/"),
            (rest, "") => Cow::Borrowed(rest),
            (rest, add) => Cow::Owned(format!("{add}{rest}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::path::canonical;

    fn rewritten(strip: &str, add: &str, path: &str) -> String {
        Rewrite { strip: strip.into(), add: add.into() }.path(path).into_owned()
    }

    #[test]
    fn a_prefix_goes_and_another_comes() {
        for (strip, add, path, backend) in [
            ("", "", "/shop/cart", "/shop/cart"),
            ("/shop", "", "/shop/cart", "/cart"),
            ("/shop", "", "/shop/", "/"),
            ("/shop", "", "/shop", "/"),
            ("/shop", "/v2", "/shop/cart", "/v2/cart"),
            ("/shop", "/v2", "/shop", "/v2"),
            ("", "/v2", "/cart", "/v2/cart"),
            ("", "/v2", "/", "/v2/"),
            // Not at a slash: another resource, which no route with this prefix takes.
            ("/shop", "", "/shopping", "/shopping"),
        ] {
            assert_eq!(rewritten(strip, add, path), backend, "{strip} {add} {path}");
        }
    }

    proptest! {
        #[test]
        fn what_was_canonical_stays_canonical(
            strip in "(/[a-z]{1,4}){0,2}", add in "(/[a-z0-9.]{0,3}[a-z]){0,2}", rest in "(/[a-zA-Z0-9:@~!-]{1,6}|/%C3%A9|/%20){0,4}/?"
        ) {
            let path = format!("{strip}{rest}");
            let path = if path.is_empty() { "/".to_owned() } else { path };
            prop_assume!(canonical(&path).as_deref() == Ok(&*path));
            let backend = rewritten(&strip, &add, &path);
            let anew = canonical(&backend);
            prop_assert_eq!(anew.as_deref(), Ok(&*backend));
        }
    }
}
