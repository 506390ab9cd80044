//! Short names, completed with the domains of the network.

use crosspoint_resolver::message;
use hickory_proto::{op::ResponseCode, rr::Name};

use crate::answer::{Asked, canonical};

/// A query for another name than the client asked.
pub(super) struct Long {
    pub(super) asked: Asked,
    pub(super) bytes: Vec<u8>,
}

/// What to ask before `name` itself: nothing, if it has a dot (`ndots` is 1).
pub(super) fn candidates<'a>(
    name: &'a str,
    domains: &'a [String],
) -> impl Iterator<Item = String> + 'a {
    let short = !name.is_empty() && !name.contains('.');
    let domains = if short { domains } else { &[] };
    domains.iter().map(move |domain| format!("{name}.{domain}"))
}

/// The query, with another name. `None` if it is too long.
pub(super) fn rename(asked: &Asked, name: &str) -> Option<Long> {
    let mut full = Name::from_ascii(name).ok()?;
    full.set_fqdn(true);
    let mut message = asked.message.clone();
    message.queries.first_mut()?.set_name(full);
    let bytes = message.to_vec().ok()?;
    Some(Long { asked: Asked { message, name: canonical(name), family: asked.family }, bytes })
}

/// The answer to the long name as one to the short name; `None` if it holds nothing.
pub(super) fn rename_back(asked: &Asked, long: &Asked, answer: &[u8]) -> Option<Vec<u8>> {
    let mut answer = message::read(answer).ok()?;
    if answer.metadata.response_code != ResponseCode::NoError || answer.answers.is_empty() {
        return None;
    }
    let short = asked.message.queries.first()?.name();
    let full = long.message.queries.first()?.name();
    answer.queries.clone_from(&asked.message.queries);
    for record in answer.answers.iter_mut().filter(|record| record.name == *full) {
        record.name = short.clone();
    }
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use crosspoint_kernel::resolve::{Family, NO_TRAIL, Query};

    use super::*;

    #[test]
    fn only_short_names_are_completed() {
        let domains = ["lan".to_owned(), "b.example".to_owned()];
        let all = |name| candidates(name, &domains).collect::<Vec<_>>();
        assert_eq!(all("nas"), ["nas.lan", "nas.b.example"]);
        assert!(all("nas.lan").is_empty() && all("").is_empty());
    }

    #[test]
    fn the_client_sees_the_name_it_asked_for() {
        let mut query = message::query(9, "nas", Family::V4).unwrap();
        query.queries[0].set_name(Name::from_ascii("NAS.").unwrap());
        let query = query.to_vec().unwrap();
        let asked = Asked::read(Query { message: &query, trail: &NO_TRAIL }).unwrap();
        let long = rename(&asked, "nas.lan").unwrap();
        assert_eq!(message::read(&long.bytes).unwrap().queries[0].name().to_ascii(), "nas.lan.");
        let ip = std::net::IpAddr::from([10, 0, 0, 9]);
        let answer = message::reply_addresses(&long.asked.message, &[ip], 60).to_vec().unwrap();
        let answer = rename_back(&asked, &long.asked, &answer).unwrap();
        let answer = message::read(&answer).unwrap();
        assert_eq!(answer.metadata.id, 9);
        assert_eq!(answer.queries[0].name().to_ascii(), "NAS.");
        assert_eq!(answer.answers[0].name.to_ascii(), "NAS.");
        let empty = message::reply(&long.asked.message, ResponseCode::NoError).to_vec().unwrap();
        assert!(rename_back(&asked, &long.asked, &empty).is_none());
        let missing = message::reply(&long.asked.message, ResponseCode::NXDomain).to_vec().unwrap();
        assert!(rename_back(&asked, &long.asked, &missing).is_none());
        assert!(rename(&asked, &"a".repeat(64)).is_none());
    }
}
