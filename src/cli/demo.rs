//! `tollgate demo`: everything at once, to look at.
//!
//! Development certificates under `certs/`, a store and secrets under `data/`, a backend that echoes, and the
//! gateway before it. Nothing to install, nothing to configure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::task::JoinSet;

use super::serve::{Opened, status};
use super::{Reading, echo, say, tour};
use crate::app::{self, Asked, Before, Parts, Running};
use crate::config::env::Override;
use crate::config::footprint::Footprint;
use crate::config::template::{self, Place};
use crate::config::{Loaded, Read};
use crate::tls::development::authority;

/// `tollgate demo …`
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Play the whole story instead of waiting for requests: each step is printed and checked.
    #[arg(long)]
    tour: bool,
    /// Listen here for https instead of on 127.0.0.1:8443; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    https: Option<SocketAddr>,
    /// Listen here for the operator instead of on 127.0.0.1:9090.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Where the store and the secrets are kept.
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    data: PathBuf,
    /// Where the development certificates are kept.
    #[arg(long, value_name = "FOLDER", default_value = "certs")]
    certs: PathBuf,
}

/// Runs the demo until Ctrl-C, or the tour to its end.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = app::runtime()?;
    let mut tasks = JoinSet::new();
    let backend = runtime.block_on(echo::start(&mut tasks))?;
    let Arguments { https, admin, data, certs, .. } = arguments;
    let place = Place { data, certs, ..Place::default() };
    let text = template::demo(&format!("http://{backend}"), &place);
    let mut flags = vec![Override::from_flag("demo", "log.format", "text")];
    for (flag, key, address) in [("--https", "listen.https", https), ("--admin", "listen.admin", admin)] {
        flags.extend(address.map(|address| Override::from_flag(flag, key, &address.to_string())));
    }
    let read = move |before| Reading::to_serve(flags.clone(), before).read_text("(demo)", &text);
    let Read { outcome, footprint } = read(Before::default());
    let loaded = match outcome {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(super::check::complain("demo".as_ref(), &errors)),
    };
    // On the tour the steps are the output; a log would stand between them.
    let opened = if arguments.tour { Opened::silent() } else { Opened::new(&loaded)? };
    let outcome = runtime.block_on(show(arguments, loaded, opened.parts.clone(), read, footprint));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    opened.finish();
    outcome
}

async fn show(
    arguments: &Arguments,
    loaded: Loaded,
    parts: Parts,
    read: impl Fn(Before) -> Read + Send + Sync + 'static,
    footprint: Footprint,
) -> anyhow::Result<ExitCode> {
    let admin_token = loaded.boot.admin.as_ref().and_then(|admin| admin.token.clone());
    let authority = authority(&arguments.certs);
    let asked = Asked::listen()?;
    let running = app::start(loaded, parts).await?;
    if arguments.tour {
        let outcome = tour::play(&running, &authority, admin_token.as_ref()).await;
        running.drain().await;
        return outcome.map(|()| ExitCode::SUCCESS);
    }
    invite(&running, &authority, &arguments.data)?;
    Ok(status(running.until_signal(asked, read, footprint).await?))
}

fn invite(running: &Running, authority: &Path, data: &Path) -> std::io::Result<()> {
    let (authority, token) = (authority.display(), data.join("secrets/admin"));
    let token = token.display();
    let port = running.https.map_or(8443, |address| address.port());
    let admin = running.admin.map(|address| address.to_string()).unwrap_or_default();
    say!(
        r#"
Tollgate is up: https://localhost:{port}, before a backend that echoes what it receives.
Paste these into another terminal, in this folder:

  # make an account
  curl --cacert {authority} https://localhost:{port}/api/v1/auth/register \
    -H 'Content-Type: application/json' \
    -d '{{"email": "you@example.com", "password": "correct horse battery", "name": "You"}}'

  # sign in, and keep the token
  TOKEN=$(curl -s --cacert {authority} https://localhost:{port}/api/v1/auth/login \
    -H 'Content-Type: application/json' \
    -d '{{"email": "you@example.com", "password": "correct horse battery"}}' \
    | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

  # a call that is forwarded: see the identity headers that the backend gets
  curl -i --cacert {authority} https://localhost:{port}/api/v1/posts -H "Authorization: Bearer $TOKEN"

  # without a token it goes nowhere
  curl -i --cacert {authority} https://localhost:{port}/api/v1/posts

  # an API key that may read posts and nothing else: the first call passes, the second does not
  KEY=$(curl -s --cacert {authority} https://localhost:{port}/api/v1/api-keys -H "Authorization: Bearer $TOKEN" \
    -H 'Content-Type: application/json' -d '{{"name": "reader", "permissions": ["read:posts"]}}' \
    | sed 's/.*"key":"\([^"]*\)".*/\1/')
  curl -i --cacert {authority} https://localhost:{port}/api/v1/posts -H "Authorization: ApiKey $KEY"
  curl -i --cacert {authority} -X POST https://localhost:{port}/api/v1/posts -H "Authorization: ApiKey $KEY"

  # what an operator does (it counts from the next request on), and sees
  curl -X PATCH http://{admin}/v1/sites/demo/orgs/you@example.com \
    -H "Authorization: Bearer $(cat {token})" -d '{{"plan": "growth"}}'
  curl http://{admin}/metrics

Play the whole story with `tollgate demo --tour`. Ctrl-C ends it."#
    );
    Ok(())
}
