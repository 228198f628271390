//! Addresses and forms as text again.

/// The most parameters of an address or fields of a form: more than the page of a task has, whose nine answers have up to 32 flags each.
const MOST: usize = 512;

/// The text that an address holds; none if it is not sound, or not UTF-8.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(16 * high + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The parameters of an address or the fields of a form, in order; none if one is not sound, or if there are more than [`MOST`].
pub(crate) fn parameters(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = || query.split('&').filter(|pair| !pair.is_empty());
    if pairs().nth(MOST).is_some() {
        return None;
    }
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name, true)?, decode(value, true)?))
    };
    pairs().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        for bad in ["%", "%1", "%gg", "%ff", "%+1", "%-1"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parameters("a=1&b=x+y%26&a=&&c"),
            Some(vec![pair("a", "1"), pair("b", "x y&"), pair("a", ""), pair("c", "")])
        );
        assert_eq!(parameters("a=%zz"), None);
        let many = |count: usize| "a&".repeat(count);
        assert_eq!(parameters(&many(MOST)).map(|fields| fields.len()), Some(MOST));
        assert_eq!(parameters(&many(MOST + 1)), None);
    }
}
