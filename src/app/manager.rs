//! What a service manager is told (systemd's `sd_notify`); nothing where there is none (`NOTIFY_SOCKET`).
//!
//! Its socket may be full, and sending to it then blocks: it is told off the workers, and waited for a moment at most.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// How long a manager that does not listen holds up what comes after.
const PATIENCE: Duration = Duration::from_secs(1);

/// It serves.
pub(super) async fn ready() {
    tell(vec![NotifyState::Ready]).await;
}

/// It reads its configuration again; [`ready`] follows.
pub(super) async fn reloading() {
    // Type=notify-reload asks for the time beside it.
    let time = NotifyState::monotonic_usec_now().ok();
    tell([NotifyState::Reloading].into_iter().chain(time).collect()).await;
}

/// It ends.
pub(super) async fn stopping() {
    tell(vec![NotifyState::Stopping]).await;
}

/// Another process is the service from now on. Said by the one who was: who comes is not listened to before.
pub(super) async fn handed_over(pid: u32) {
    tell(vec![NotifyState::MainPid(pid), NotifyState::Ready]).await;
}

/// Tells the manager's watchdog twice in each of its periods that tasks still run here.
pub(super) async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else { return };
    loop {
        // A task of its own, so that workers that all hang are noticed. One message at a time: what a manager does not
        // read must not pile up threads.
        let ping = async {
            let _ = tokio::spawn(std::future::ready(())).await;
            let _ = send(vec![NotifyState::Watchdog]).await;
            tokio::time::sleep(period / 2).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = ping => {}
        }
    }
}

async fn tell(states: Vec<NotifyState<'static>>) {
    match tokio::time::timeout(PATIENCE, send(states)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the service manager could not be told"),
        Err(_) => tracing::warn!("the service manager does not listen"),
    }
}

async fn send(states: Vec<NotifyState<'static>>) -> std::io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    tokio::task::spawn_blocking(move || sd_notify::notify(&states)).await?
}
