//! Several addresses, one connection.

use std::{future::Future, net::IpAddr, time::Duration};

use crate::error::{DialClass, DialError, Side};

/// Tries the addresses one after the other.
///
/// # Errors
/// All that was tried failed: the class is that of the first, the message tells all.
pub(super) async fn serial<T, F>(
    addresses: &[IpAddr],
    connect: &impl Fn(IpAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut failed = Vec::new();
    for ip in addresses {
        match connect(*ip).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed.push(error),
        }
    }
    Err(join(failed))
}

/// Gives the family of the first address a head start of `delay`, then (or as soon as that family has
/// failed) tries the other family beside it. Within a family one after the other, as in the reference.
/// The loser's sockets are closed.
///
/// # Errors
/// Both families failed: the error is that of the first one.
pub(super) async fn parallel<T, F>(
    addresses: &[IpAddr],
    delay: Duration,
    connect: impl Fn(IpAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let v6_first = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|ip| ip.is_ipv6() == v6_first);
    if second.is_empty() {
        return serial(&first, &connect).await;
    }
    let mut primary = std::pin::pin!(serial(&first, &connect));
    let first_error = match tokio::time::timeout(delay, primary.as_mut()).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let mut fallback = std::pin::pin!(serial(&second, &connect));
    if let Some(error) = first_error {
        return fallback.await.map_err(|_| error);
    }
    tokio::select! {
        result = primary.as_mut() => match result {
            Ok(stream) => Ok(stream),
            Err(error) => fallback.await.map_err(|_| error),
        },
        result = fallback.as_mut() => match result {
            Ok(stream) => Ok(stream),
            Err(_) => primary.await,
        },
    }
}

fn join(mut failed: Vec<DialError>) -> DialError {
    match failed.len() {
        0 => DialError::new(DialClass::HostUnreachable, Side::Target, "no address to dial"),
        1 => failed.remove(0),
        _ => {
            let all: Vec<_> = failed.iter().map(ToString::to_string).collect();
            let first = &failed[0];
            DialError::new(first.class, first.side, format_args!("({})", all.join(" | ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::*;

    const V4: &str = "192.0.2.1";
    const V6: &str = "2001:db8::1";

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// Dials answer after some milliseconds, well or not.
    async fn run(
        addresses: &[&str],
        answers: &[(&str, u64, bool)],
    ) -> (Result<IpAddr, DialError>, Duration, Vec<IpAddr>) {
        let tried = RefCell::new(Vec::new());
        let started = Instant::now();
        let result = parallel(&ips(addresses), FALLBACK, |ip| {
            tried.borrow_mut().push(ip);
            let answer = answers.iter().find(|(addr, ..)| ip.to_string() == *addr).copied();
            async move {
                let (_, millis, well) = answer.unwrap();
                sleep(Duration::from_millis(millis)).await;
                let refused =
                    || DialError::new(DialClass::Refused, Side::Target, format_args!("{ip} no"));
                if well { Ok(ip) } else { Err(refused()) }
            }
        })
        .await;
        (result, started.elapsed(), tried.into_inner())
    }

    const FALLBACK: Duration = Duration::from_millis(300);

    #[tokio::test(start_paused = true)]
    async fn the_other_family_is_not_tried_within_the_delay() {
        let (won, took, tried) = run(&[V6, V4], &[(V6, 250, true), (V4, 0, true)]).await;
        assert_eq!(won.unwrap().to_string(), V6);
        assert_eq!((took.as_millis(), tried.len()), (250, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_family_wins_over_a_black_hole() {
        let (won, took, _) = run(&[V6, V4], &[(V6, 5000, false), (V4, 20, true)]).await;
        assert_eq!(won.unwrap().to_string(), V4);
        assert_eq!(took.as_millis(), 320);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_family_starts_the_other_at_once() {
        let (won, took, _) = run(&[V4, V6], &[(V4, 5, false), (V6, 5, true)]).await;
        assert_eq!(won.unwrap().to_string(), V6);
        assert_eq!(took.as_millis(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_family_still_wins_when_the_other_fails() {
        let (won, ..) = run(&[V4, V6], &[(V4, 900, true), (V6, 1, false)]).await;
        assert_eq!(won.unwrap().to_string(), V4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_that_of_the_first_family() {
        let (won, ..) = run(&[V4, V6], &[(V4, 400, false), (V6, 1, false)]).await;
        assert_eq!(won.unwrap_err().to_string(), "192.0.2.1 no");
        let (won, ..) =
            run(&["192.0.2.1", "192.0.2.2"], &[("192.0.2.1", 1, false), ("192.0.2.2", 1, false)])
                .await;
        assert_eq!(won.unwrap_err().to_string(), "(192.0.2.1 no | 192.0.2.2 no)");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_family_are_tried_in_order() {
        let answers = [("192.0.2.1", 5, false), ("192.0.2.2", 5, true), ("192.0.2.3", 0, true)];
        let (won, _, tried) = run(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &answers).await;
        assert_eq!(won.unwrap().to_string(), "192.0.2.2");
        assert_eq!(tried.len(), 2);
    }
}
