//! With [`super::disk`] the only part of `config` that touches the disk: files, includes, secrets, contracts.
//!
//! Called by `app` at the start and at each reload, and by `tollgate check`. A new secret is written only
//! when everything else is right, so that a bad file leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::boot::Boot;
use super::clients;
use super::compile::{Compiled, Page, compile};
use super::disk::{GONE, NOT_MADE, reason, without_newline, write_new};
use super::env::{Env, Override, interpolate};
use super::footprint::Footprint;
use super::given::Given;
use super::keys::kind;
use super::mail;
use super::raw::{RawApiKeys, RawFile, Text};
use super::site::is_path;
use super::snapshot::Snapshot;
use crate::contract::source::{self, Located, Source};
use crate::credential::generate::{KeyKind, generate};
use crate::model::entropy::Entropy;
use crate::model::secret::Secret;

/// What loading needs beside the file's name.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The process's environment, with a `.env` file below it ([`super::dotenv`]).
    pub env: &'a Env,
    /// Values from the command line; they win over the environment, and that over the files.
    pub flags: &'a [Override],
    /// Where new secrets come from.
    pub entropy: &'a dyn Entropy,
    /// Whether secrets that are to be generated are written; `false` for a mere check.
    pub write: bool,
    /// The generation of the snapshot.
    pub generation: u64,
    /// What [`Loaded::kept`] of the configuration in force says: such a secret is never made anew.
    pub kept: Option<&'a BTreeSet<PathBuf>>,
}

/// What the files say.
#[derive(Debug)]
pub struct Loaded {
    /// What the process is started with.
    pub boot: Boot,
    /// What a reload replaces.
    pub snapshot: Snapshot,
    /// What works and may not be meant.
    pub warnings: Vec<Located>,
    /// Every file that was read.
    pub footprint: Footprint,
    /// The files of secrets that are made where they are missing, all of which are there.
    pub kept: BTreeSet<PathBuf>,
    /// Those of them that were made now.
    pub made: Vec<PathBuf>,
}

/// What came of reading, and from where: that is known also where nothing came of it.
#[derive(Debug)]
pub struct Read {
    /// The configuration, or everything that is wrong with it.
    pub outcome: Result<Loaded, Vec<Located>>,
    /// Every file that was read or should have been.
    pub footprint: Footprint,
}

/// Loads the file at `path` with all that it includes, or tells everything that is wrong.
pub fn load(path: &Path, inputs: &Inputs<'_>) -> Result<Loaded, Vec<Located>> {
    read(path, inputs).outcome
}

/// The same, and which files it was read from.
pub fn read(path: &Path, inputs: &Inputs<'_>) -> Read {
    let mut footprint = Footprint::default();
    let outcome = footprint.read_text(path).map_err(|error| {
        let remedy = "name a configuration with --config; config/gateway.toml is one to start from".into();
        let message = format!("cannot read the file: {}", reason(&error));
        vec![Located { file: path.display().to_string(), line: 0, column: 0, key: String::new(), message, remedy }]
    });
    let outcome = outcome
        .and_then(|text| from(path.to_owned(), &Source::new(path.display().to_string(), text), inputs, &mut footprint));
    Read { outcome, footprint }
}

/// Loads `text` as if it stood in a file called `name` in the working directory.
pub fn load_text(name: &str, text: &str, inputs: &Inputs<'_>) -> Result<Loaded, Vec<Located>> {
    read_text(name, text, inputs).outcome
}

/// The same, and which files it named.
pub fn read_text(name: &str, text: &str, inputs: &Inputs<'_>) -> Read {
    let mut footprint = Footprint::default();
    let outcome = from(PathBuf::from(name), &Source::new(name, text), inputs, &mut footprint);
    Read { outcome, footprint }
}

fn from(
    path: PathBuf,
    source: &Source,
    inputs: &Inputs<'_>,
    footprint: &mut Footprint,
) -> Result<Loaded, Vec<Located>> {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    gather(path, source, &mut Vec::new(), inputs.env, &mut found, &mut errors, footprint);
    let names: Vec<String> = found.iter().map(|found| found.source.name.clone()).collect();
    let Some(pages) = read_pages(found, inputs, &mut errors) else { return Err(in_order(errors, &names)) };
    let (mut given, pending) = given(&pages, inputs, footprint);
    let made: Vec<PathBuf> = pending.iter().filter(|_| inputs.write).map(|it| PathBuf::from(&it.path)).collect();
    let compiled = compile(&pages, &given);
    if !errors.is_empty() {
        let more = compiled.err().into_iter().flatten();
        let fresh: Vec<_> = more.filter(|error| !errors.iter().any(|own| echoes(error, own))).collect();
        errors.extend(fresh);
        return Err(in_order(errors, &names));
    }
    let mut compiled = compiled?;
    let with_mail = pages.iter().find_map(|page| Some((page, page.raw.mail.as_ref()?)));
    let (source, raw) = with_mail.map_or((&pages[0].source, None), |(page, raw)| (&page.source, Some(raw)));
    mail::try_out(&compiled.boot.mail, source, raw).map_err(|error| vec![error])?;
    if inputs.write && write_all(pending, &mut given, footprint)? {
        // Another process was faster: its secrets are the ones that count.
        compiled = compile(&pages, &given)?;
    }
    let Compiled { boot, snapshot, warnings } = compiled;
    let secrets = pages.iter().flat_map(|page| secret_files(&page.raw));
    let kept = secrets.filter_map(|(path, make)| make.map(|_| PathBuf::from(path))).collect();
    Ok(Loaded { boot, snapshot, warnings, footprint: footprint.clone(), kept, made })
}

/// Whether `error` only says that something is missing or wrong which `first` has said why: a variable that
/// could not be filled in at the same place, or a misspelt or mistyped key just below.
fn echoes(error: &Located, first: &Located) -> bool {
    let below = || first.key.rsplit_once('.').is_some_and(|(above, _)| above == error.key);
    let meant = || {
        first.remedy.starts_with("did you mean")
            || first.message.starts_with("expected")
            || first.message.starts_with("unknown value")
    };
    let place = |it: &Located| (it.line, it.column);
    error.file == first.file && (place(error) == place(first) || (below() && meant()))
}

/// Files in the order they were read, places in the order of the file; what is in neither comes last.
fn in_order(mut errors: Vec<Located>, names: &[String]) -> Vec<Located> {
    errors.sort_by_key(|error| {
        let file = names.iter().position(|name| *name == error.file).unwrap_or(names.len());
        (file, error.line, error.column)
    });
    errors
}

/// A file, its sections, and where it lies.
struct Found {
    path: PathBuf,
    source: Source,
    sections: Vec<String>,
}

/// Collects the file and, below it, what it includes. `above` is the way here.
fn gather(
    path: PathBuf,
    source: &Source,
    above: &mut Vec<PathBuf>,
    env: &Env,
    found: &mut Vec<Found>,
    errors: &mut Vec<Located>,
    footprint: &mut Footprint,
) {
    let (root, _) = DeTable::parse_recoverable(&source.text);
    let mut root = root.into_inner();
    // What is wrong here is told when the file is read as a whole.
    interpolate(source, &mut root, env, &mut Vec::new());
    let sections = root.iter().map(|(key, _)| key.get_ref().to_string()).collect();
    let includes: Vec<_> =
        root.iter().filter(|(key, _)| key.get_ref() == "include").flat_map(|(_, value)| texts(value)).collect();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    above.push(real(&path));
    found.push(Found { path, source: source.clone(), sections });
    for text in includes {
        let (span, path) = (text.span(), folder.join(text.get_ref()));
        let shown = path.display().to_string();
        if above.contains(&real(&path)) {
            let way: Vec<String> =
                above.iter().map(|path| path.file_name().unwrap_or_default().display().to_string()).collect();
            let message = format!("`{shown}` includes itself: {} -> {}", way.join(" -> "), text.get_ref());
            errors.push(source.error(&span, message, "take one of these includes out"));
            continue;
        }
        if found.iter().any(|other| real(&other.path) == real(&path)) {
            errors.push(source.error(&span, format!("`{shown}` is included twice"), "include each file once"));
            continue;
        }
        match footprint.read_text(&path) {
            Ok(text) => gather(path, &Source::new(shown, text), above, env, found, errors, footprint),
            Err(error) => {
                let message = format!("cannot read `{shown}`: {}", reason(&error));
                errors.push(source.error(&span, message, "an include's path starts from the file that names it"));
            }
        }
    }
    above.pop();
}

/// The strings of a string or a list.
fn texts(value: &Spanned<DeValue<'_>>) -> Vec<Spanned<String>> {
    match value.get_ref() {
        DeValue::String(text) => vec![Spanned::new(value.span(), text.to_string())],
        DeValue::Array(items) => items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// One name for a file, however it is reached.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Reads each file with what the environment and the command line set in it; `None` when one cannot be read as TOML.
fn read_pages(found: Vec<Found>, inputs: &Inputs<'_>, errors: &mut Vec<Located>) -> Option<Vec<Page>> {
    let mut overrides = Override::from_env(inputs.env);
    overrides.extend(inputs.flags.iter().cloned());
    // A value goes where its section stands; into the first file where none has it.
    let homes: Vec<usize> = overrides
        .iter()
        .map(|each| found.iter().position(|found| each.path.first().is_some_and(|key| found.sections.contains(key))))
        .map(Option::unwrap_or_default)
        .collect();
    let mut pages = Vec::new();
    let count = found.len();
    for (at, Found { mut source, .. }) in found.into_iter().enumerate() {
        let own: Vec<&Override> =
            overrides.iter().zip(&homes).filter_map(|(each, home)| (*home == at).then_some(each)).collect();
        source.outside = own.iter().map(|each| each.outside()).collect();
        let (raw, told) = source::read::<RawFile>(&source, |table, errors| {
            interpolate(&source, table, inputs.env, errors);
            for (at, each) in own.iter().enumerate() {
                errors.extend(each.apply(table, at).err());
            }
        });
        errors.extend(told);
        pages.extend(raw.map(|raw| Page { source: source.clone(), raw }));
    }
    if pages.len() != count {
        return None;
    }
    give_peppers(&mut pages);
    Some(pages)
}

/// Gives each site without a pepper one in a file beside its SQLite database, made at the first start. A fleet on
/// PostgreSQL has to be given one: nodes that each made their own would not know each other's keys.
fn give_peppers(pages: &mut [Page]) {
    let store = pages.iter().find_map(|page| page.raw.store.as_ref()).map(Spanned::get_ref);
    let url = match store {
        None => Some("sqlite://data/tollgate.db"),
        Some(store) if store.url_file.is_some() => None,
        Some(store) => Some(store.url.as_ref().map_or("sqlite://data/tollgate.db", |url| url.get_ref().expose())),
    };
    let path = url.and_then(|url| url.strip_prefix("sqlite:")).map(|path| path.strip_prefix("//").unwrap_or(path));
    let Some(folder) = path.map(|path| Path::new(path.split('?').next().unwrap_or(path)).with_file_name("secrets"))
    else {
        return;
    };
    for site in pages.iter_mut().flat_map(|page| &mut page.raw.site) {
        let around = site.span();
        let site = site.get_mut();
        if site.api_keys.as_ref().is_some_and(|keys| {
            let keys = keys.get_ref();
            keys.pepper.is_some() || keys.pepper_file.is_some() || keys.generate.is_some()
        }) {
            continue;
        }
        let Some(name) = site.name.as_ref().or(site.contract.as_ref()).map(Spanned::get_ref) else { continue };
        let plain: String = name.chars().map(|each| if each.is_ascii_alphanumeric() { each } else { '-' }).collect();
        let file = folder.join(format!("pepper-{plain}")).display().to_string();
        let keys = RawApiKeys {
            pepper: None,
            pepper_file: Some(Spanned::new(around.clone(), file)),
            generate: Some(Spanned::new(around.clone(), true)),
        };
        site.api_keys = Some(Spanned::new(around, keys));
    }
}

/// A secret that is not there yet.
struct Pending {
    path: String,
    secret: Secret,
}

/// Reads what the files name: secrets, contracts, certificates. Secrets that are to be made are drawn.
fn given(pages: &[Page], inputs: &Inputs<'_>, footprint: &mut Footprint) -> (Given, Vec<Pending>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut given = Given {
        secrets: BTreeMap::new(),
        contracts: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        client_files: BTreeMap::new(),
        spare: spare(inputs.entropy),
        cores,
        generation: inputs.generation,
    };
    let mut pending = Vec::new();
    for page in pages {
        for (path, make) in secret_files(&page.raw) {
            if given.secrets.contains_key(path) {
                continue;
            }
            let secret = match (footprint.read_text(Path::new(path)), make) {
                (Ok(text), _) => Ok(without_newline(&text)),
                (Err(error), Some(_))
                    if error.kind() == ErrorKind::NotFound
                        && inputs.kept.is_some_and(|kept| kept.contains(Path::new(path))) =>
                {
                    Err(GONE.to_owned())
                }
                (Err(error), Some(make)) if error.kind() == ErrorKind::NotFound => {
                    let drawn = make.draw(inputs.entropy);
                    pending.extend(drawn.clone().ok().map(|secret| Pending { path: path.to_owned(), secret }));
                    drawn
                }
                (Err(error), _) => Err(reason(&error)),
            };
            given.secrets.insert(path.to_owned(), secret);
        }
        for site in page.raw.site.iter().map(Spanned::get_ref) {
            if let Some(path) = site.contract.as_ref().map(Spanned::get_ref).filter(|name| is_path(name)) {
                let source = footprint.read_text(Path::new(path)).map(|text| Source::new(path.clone(), text));
                given.contracts.insert(path.clone(), source.map_err(|error| reason(&error)));
            }
        }
        let asked = page.raw.site.iter().filter_map(|site| site.get_ref().client_certificates.as_ref());
        for path in asked.flat_map(|asked| clients::files(asked.get_ref())) {
            let bytes = footprint.read(Path::new(&path)).map_err(|error| reason(&error));
            given.client_files.insert(path, bytes);
        }
        let certificates = page.raw.tls.iter().flat_map(|tls| &tls.get_ref().certificate).map(Spanned::get_ref);
        let authorities = page.raw.mail.iter().filter_map(|mail| mail.get_ref().authorities.as_ref());
        let upstreams = page.raw.site.iter().flat_map(|site| site.get_ref().upstream.values());
        let collector = page.raw.tracing.iter().filter_map(|tracing| tracing.get_ref().tls.as_ref());
        let upstreams = upstreams.filter_map(|upstream| upstream.get_ref().tls.as_ref());
        let upstreams = upstreams.chain(collector).map(Spanned::get_ref);
        let of_upstreams = upstreams.flat_map(|tls| [&tls.authorities, &tls.certificate, &tls.key]).flatten();
        let pairs = certificates.flat_map(|pair| [&pair.certificate, &pair.key]).flatten();
        for text in pairs.chain(authorities).chain(of_upstreams) {
            if let Err(error) = footprint.read(Path::new(text.get_ref())) {
                given.unreadable.insert(text.get_ref().clone(), reason(&error));
            }
        }
    }
    (given, pending)
}

/// What a missing secret file is made of.
enum Make<'r> {
    Text,
    Key(&'r str),
}

impl Make<'_> {
    fn draw(&self, entropy: &dyn Entropy) -> Result<Secret, String> {
        let kind = match self {
            Self::Text => Some(KeyKind::Hmac),
            Self::Key(algorithm) => kind(algorithm),
        };
        let kind = kind.ok_or_else(|| NOT_MADE.to_owned())?;
        generate(kind, entropy).map_err(|error| error.to_string())
    }
}

fn spare(entropy: &dyn Entropy) -> Secret {
    let mut bytes = [0_u8; 32];
    entropy.fill(&mut bytes);
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

/// Every secret file that is named, and what it is made of where it may be made.
fn secret_files(raw: &RawFile) -> Vec<(&str, Option<Make<'_>>)> {
    fn named<'r>(
        path: &'r Text,
        generate: Option<&Spanned<bool>>,
        make: Make<'r>,
    ) -> Option<(&'r str, Option<Make<'r>>)> {
        let make = generate.is_some_and(|generate| *generate.get_ref()).then_some(make);
        path.as_ref().map(|path| (path.get_ref().as_str(), make))
    }
    let mut files = Vec::new();
    files.extend(raw.store.iter().filter_map(|store| named(&store.get_ref().url_file, None, Make::Text)));
    files.extend(raw.limits.iter().filter_map(|limits| named(&limits.get_ref().redis_url_file, None, Make::Text)));
    for admin in raw.admin.iter().map(Spanned::get_ref) {
        files.extend(named(&admin.token_file, admin.generate.as_ref(), Make::Text));
    }
    for mail in raw.mail.iter().map(Spanned::get_ref) {
        files.extend(named(&mail.password_file, None, Make::Text));
    }
    for tracing in raw.tracing.iter().map(Spanned::get_ref) {
        files.extend(named(&tracing.token_file, None, Make::Text));
    }
    for site in raw.site.iter().map(Spanned::get_ref) {
        for keys in site.api_keys.iter().map(Spanned::get_ref) {
            files.extend(named(&keys.pepper_file, keys.generate.as_ref(), Make::Text));
        }
        for key in site.tokens.iter().flat_map(|tokens| &tokens.get_ref().keys).map(Spanned::get_ref) {
            let algorithm = key.algorithm.as_ref().map_or("", |algorithm| algorithm.get_ref());
            files.extend(named(&key.secret_file, key.generate.as_ref(), Make::Key(algorithm)));
        }
    }
    files
}

/// Writes new secrets; `true` when some of them had appeared in the meantime and were read instead.
fn write_all(pending: Vec<Pending>, given: &mut Given, footprint: &mut Footprint) -> Result<bool, Vec<Located>> {
    let mut other = false;
    let mut errors = Vec::new();
    for Pending { path, secret } in pending {
        let kept = write_new(Path::new(&path), &secret)
            .and_then(|written| footprint.read_text(Path::new(&path)).map(|text| (!written).then_some(text)));
        match kept {
            Ok(None) => {}
            Ok(Some(text)) => {
                given.secrets.insert(path, Ok(without_newline(&text)));
                other = true;
            }
            Err(error) => errors.push(Located {
                file: path,
                line: 0,
                column: 0,
                key: String::new(),
                message: format!("cannot write the new secret: {}", reason(&error)),
                remedy: "let this user write there, or make the file with `tollgate secrets new`".into(),
            }),
        }
    }
    if errors.is_empty() { Ok(other) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Given {
        Given {
            secrets: BTreeMap::new(),
            contracts: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            client_files: BTreeMap::new(),
            spare: Secret::new("spare".into()),
            cores: 1,
            generation: 1,
        }
    }

    #[test]
    fn the_first_of_two_processes_makes_the_secret_and_the_second_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/secret");
        assert!(write_new(&path, &Secret::new("one".into())).unwrap());
        assert!(!write_new(&path, &Secret::new("two".into())).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left behind");

        let pending = vec![Pending { path: path.display().to_string(), secret: Secret::new("three".into()) }];
        let mut given = nothing();
        assert_eq!(write_all(pending, &mut given, &mut Footprint::default()), Ok(true));
        assert_eq!(given.secrets[&path.display().to_string()], Ok(Secret::new("one".into())));
    }

    #[test]
    fn a_secret_that_cannot_be_written_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let path = file.join("secret").display().to_string();
        let pending = vec![Pending { path: path.clone(), secret: Secret::new("hunter2-hunter2".into()) }];
        let errors = write_all(pending, &mut nothing(), &mut Footprint::default()).unwrap_err();
        assert!(errors[0].to_string().starts_with(&format!("{path}: cannot write the new secret: ")), "{errors:?}");
        assert!(!errors[0].to_string().contains("hunter2"));
    }
}
