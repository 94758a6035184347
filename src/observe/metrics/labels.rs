//! What metrics are labelled with: closed sets, so that no client can make a new series.
//!
//! The other labels are configured names (sites, upstreams, certificates). To add a value: a variant.

macro_rules! labels {
    ($($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $variant:ident = $name:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$each])* $variant,)* }

        impl $type {
            /// Every value, in declaration order: `ALL[value as usize] == value`.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The label's text.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    )*};
}

labels! {
    /// Which door a connection came in by.
    Listener {
        /// TLS, for clients.
        Https = "https",
        /// Plain, for clients.
        Http = "http",
        /// The operator's.
        Admin = "admin",
    }

    /// Why a connection was closed before anything was asked on it.
    TurnedAway {
        /// Its address holds all the connections that it may.
        PerAddress = "per_address",
        /// Only trusted proxies come in by this listener.
        NoProxy = "no_proxy",
        /// Its PROXY header did not come, or was none.
        ProxyHeader = "proxy_header",
    }

    /// What vouches for a site's clients.
    Clients {
        /// A certificate of an authority.
        Authority = "authority",
        /// A list of the certificates that one has revoked.
        RevocationList = "revocation_list",
    }

    /// What the client of a connection took too long for, so that it was ended.
    Slow {
        /// It said nothing at all.
        Silent = "silent",
        /// A head that had begun did not come to its end.
        Head = "head",
        /// Nothing of what waited for it was taken.
        Unread = "unread",
        /// It rested between two requests.
        Idle = "idle",
    }

    /// A request's method; what a client invents is `other`.
    MethodClass {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// PATCH
        Patch = "PATCH",
        /// DELETE
        Delete = "DELETE",
        /// OPTIONS
        Options = "OPTIONS",
        /// Any other.
        Other = "other",
    }

    /// An answer's status by its first digit.
    StatusClass {
        /// 1xx: an upgrade.
        Informational = "1xx",
        /// 2xx
        Success = "2xx",
        /// 3xx
        Redirection = "3xx",
        /// 4xx
        ClientError = "4xx",
        /// 5xx
        ServerError = "5xx",
    }

    /// What a window is kept for.
    LimitKind {
        /// An organization, by its plan.
        Organization = "organization",
        /// A user without one.
        User = "user",
        /// An API key.
        Key = "key",
        /// A client address.
        Address = "address",
        /// A name somebody tries to sign in with.
        Name = "name",
        /// A route, per organization.
        Route = "route",
    }

    /// A cache.
    Cache {
        /// Verified tokens.
        Tokens = "tokens",
        /// Users with their organizations.
        Accounts = "accounts",
        /// Sessions.
        Sessions = "sessions",
        /// API keys.
        Keys = "keys",
        /// Signed identity assertions.
        Assertions = "assertions",
    }

    /// What the store was asked.
    StoreOperation {
        /// Whether it answers at all.
        Ping = "ping",
        /// Remember which pepper a realm's secrets are under.
        NotePepper = "note_pepper",
        /// Make an account.
        Register = "register",
        /// Find an account with its password hash.
        Credentials = "credentials",
        /// Read a user with their organization.
        Account = "account",
        /// Read an organization.
        Organization = "organization",
        /// Replace a password hash.
        SetPasswordHash = "set_password_hash",
        /// Change a password by the old one.
        ChangePassword = "change_password",
        /// Set a new password by a mailed code.
        ResetPassword = "reset_password",
        /// Keep a code, and the mail that carries it.
        RequestCode = "request_code",
        /// Find whose a code is.
        Code = "code",
        /// Prove an address by a mailed code.
        VerifyEmail = "verify_email",
        /// Change names.
        UpdateProfile = "update_profile",
        /// Take a mail that is due.
        ClaimMail = "claim_mail",
        /// Note how sending a mail ended.
        SettleMail = "settle_mail",
        /// Count mails that wait.
        MailWaiting = "mail_waiting",
        /// Start a session.
        StartSession = "start_session",
        /// Read a session.
        Session = "session",
        /// List a user's sessions.
        Sessions = "sessions",
        /// Renew a session.
        RefreshSession = "refresh_session",
        /// Note when sessions were last used.
        TouchSessions = "touch_sessions",
        /// Replace a refresh token.
        RotateRefresh = "rotate_refresh",
        /// Use a refresh token that stays.
        CheckRefresh = "check_refresh",
        /// End one session.
        EndSession = "end_session",
        /// End a user's sessions.
        EndSessions = "end_sessions",
        /// Make an API key.
        CreateKey = "create_key",
        /// Find an API key by its hash.
        KeyByHash = "key_by_hash",
        /// Read an API key.
        Key = "key",
        /// List API keys.
        Keys = "keys",
        /// Replace an API key.
        RotateKey = "rotate_key",
        /// Revoke an API key.
        RevokeKey = "revoke_key",
        /// Note when keys were last used.
        TouchKeys = "touch_keys",
        /// List users.
        Users = "users",
        /// List organizations.
        Organizations = "organizations",
        /// Set a user's role.
        SetRole = "set_role",
        /// Set an organization's plan.
        SetPlan = "set_plan",
        /// Set an organization's own limits.
        SetLimits = "set_limits",
        /// Disable or enable a user or an organization.
        SetDisabled = "set_disabled",
        /// Read the feed of changes.
        Changes = "changes",
        /// Delete what is past.
        Purge = "purge",
        /// Create or migrate the tables.
        Migrate = "migrate",
    }

    /// How the store answered.
    StoreOutcome {
        /// It did (also: no such row).
        Ok = "ok",
        /// It could not be reached, was locked, or is full.
        Unavailable = "unavailable",
        /// It answered something that should not be.
        Failed = "failed",
    }

    /// How a request to a backend ended.
    UpstreamOutcome {
        /// Answered 1xx: an upgrade.
        Informational = "1xx",
        /// Answered 2xx.
        Success = "2xx",
        /// Answered 3xx.
        Redirection = "3xx",
        /// Answered 4xx.
        ClientError = "4xx",
        /// Answered 5xx.
        ServerError = "5xx",
        /// No connection.
        Connect = "connect_failed",
        /// No connection in time.
        ConnectTimeout = "connect_timeout",
        /// No TLS.
        Tls = "tls_failed",
        /// No TLS in time.
        TlsTimeout = "tls_timeout",
        /// Connected, no answer in time.
        ResponseTimeout = "response_timeout",
        /// It stopped taking the request's body.
        IdleTimeout = "idle_timeout",
        /// The whole request took too long.
        Overdue = "timeout",
        /// It reset the request's stream.
        Reset = "reset",
        /// The connection broke before the answer.
        Closed = "closed",
        /// What came back is not HTTP.
        Protocol = "protocol_error",
        /// Every connection it may have is busy.
        Exhausted = "exhausted",
        /// All of its servers fail their health checks.
        Unhealthy = "unhealthy",
        /// The client went away, or its body failed.
        Cancelled = "cancelled",
    }

    /// Whether a request that failed was tried again.
    RetryResult {
        /// It was.
        Spent = "spent",
        /// It could have been, and the upstream's budget was spent.
        Refused = "refused",
    }

    /// What a health check came to.
    CheckResult {
        /// It passed.
        Passed = "passed",
        /// No connection.
        Connect = "connect_failed",
        /// No TLS.
        Tls = "tls_failed",
        /// No answer in time.
        Timeout = "timeout",
        /// Another status than it should be.
        Status = "status",
        /// The connection broke, or what came is not HTTP.
        Protocol = "protocol_error",
    }

    /// What an agent's connection came to.
    AgentOutcome {
        /// Its key passed, and so did it.
        Accepted = "accepted",
        /// Turned away at the door: too many wait.
        TurnedAway = "turned_away",
        /// It left before its first message.
        Left = "left",
        /// Its first message did not come in time.
        Late = "late",
        /// What it sent is no first message.
        Malformed = "malformed",
        /// Its key does not pass.
        Refused = "refused",
        /// Its key passes and may not do this.
        Forbidden = "forbidden",
        /// A window is full.
        Limited = "limited",
        /// We, or the backend, cannot serve it now.
        Unavailable = "unavailable",
    }

    /// How a tunnel ended.
    TunnelEnd {
        /// Both sides were done, or one was and the other had its time to say so.
        Closed = "closed",
        /// Nothing moved for too long.
        Idle = "idle",
        /// The client may no longer have it.
        Revoked = "revoked",
        /// Whether the client may have it could not be told any more: the store was away for too long.
        Undecided = "undecided",
        /// The gateway stopped.
        Drained = "drained",
        /// A connection broke, or never came about.
        Broken = "broken",
    }

    /// Why an answer did not come to its end.
    Cut {
        /// The backend sent nothing for too long.
        BackendStalled = "backend_stalled",
        /// The backend's answer broke off, or was no longer HTTP.
        BackendLost = "backend_lost",
        /// The whole request took too long.
        Overdue = "timeout",
        /// The client may no longer have the rest.
        Revoked = "revoked",
        /// The gateway stopped, and the time for what was under way was over.
        Drained = "drained",
        /// The request's own body failed.
        RequestBody = "request_body",
        /// The client left before it had all of it, or any of it.
        ClientLeft = "client_left",
        /// The client took nothing of it for too long.
        ClientStalled = "client_stalled",
    }

    /// What came of trying to send a mail.
    MailOutcome {
        /// The mail server took it.
        Sent = "sent",
        /// It was not taken, and is tried again later.
        Failed = "failed",
        /// It is not tried again: refused for good, or its time is over.
        GivenUp = "given_up",
    }

    /// Why a span never reached the collector.
    SpanLoss {
        /// Too many waited already.
        QueueFull = "queue_full",
        /// The collector did not take it, however often it was asked.
        GivenUp = "given_up",
        /// The collector has refused it for good.
        Refused = "refused",
    }

    /// A TLS version.
    TlsVersion {
        /// TLS 1.2
        V12 = "1.2",
        /// TLS 1.3
        V13 = "1.3",
        /// The handshake ended before one was chosen.
        Undecided = "none",
    }

    /// How a TLS handshake ended.
    Handshake {
        /// A new session.
        Full = "full",
        /// An earlier session went on.
        Resumed = "resumed",
        /// Refused by either side.
        Failed = "failed",
        /// Not finished in time.
        TimedOut = "timed_out",
        /// The site asks for a certificate, and the client has shown none.
        CertificateMissing = "certificate_missing",
        /// Nobody whom the site names has issued the client's certificate.
        CertificateUnknown = "certificate_unknown",
        /// The client's certificate is past its time, or before it.
        CertificateExpired = "certificate_expired",
        /// The client's certificate is in its authority's list.
        CertificateRevoked = "certificate_revoked",
        /// No list says whether it is: there is none of who issued it, or that is out of date.
        CertificateUndecided = "certificate_undecided",
        /// The client's certificate is bad for another reason: not made for clients, or broken.
        CertificateRefused = "certificate_refused",
    }

    /// Where a change of facts came from.
    ChangeSource {
        /// This process committed it.
        Local = "local",
        /// Another process did; the feed told.
        Feed = "feed",
    }

    /// Which log a line was meant for.
    LogStream {
        /// The log with its access lines.
        Log = "log",
        /// The audit trail's own file.
        Audit = "audit",
    }
}

impl MethodClass {
    /// The class of `method`.
    pub fn of(method: &http::Method) -> Self {
        Self::ALL.iter().copied().find(|class| class.name() == method.as_str()).unwrap_or(Self::Other)
    }
}

impl StatusClass {
    /// The class of `status`; what is no status at all counts as the server's fault.
    pub const fn of(status: u16) -> Self {
        match status {
            100..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

impl UpstreamOutcome {
    /// The outcome of an answer with `status`.
    pub const fn answered(status: u16) -> Self {
        match StatusClass::of(status) {
            StatusClass::Informational => Self::Informational,
            StatusClass::Success => Self::Success,
            StatusClass::Redirection => Self::Redirection,
            StatusClass::ClientError => Self::ClientError,
            StatusClass::ServerError => Self::ServerError,
        }
    }
}

impl TlsVersion {
    /// The version rustls negotiated.
    pub const fn of(version: Option<rustls::ProtocolVersion>) -> Self {
        match version {
            Some(rustls::ProtocolVersion::TLSv1_2) => Self::V12,
            Some(rustls::ProtocolVersion::TLSv1_3) => Self::V13,
            _ => Self::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_at_its_own_index() {
        for (at, operation) in StoreOperation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, at);
        }
        for (at, class) in MethodClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, at);
        }
    }

    #[test]
    fn an_invented_method_is_other_and_a_known_one_is_itself() {
        assert_eq!(MethodClass::of(&http::Method::PATCH), MethodClass::Patch);
        for invented in ["PATCHY", "get", "other", "X"] {
            assert_eq!(MethodClass::of(&http::Method::from_bytes(invented.as_bytes()).unwrap()), MethodClass::Other);
        }
    }

    #[test]
    fn statuses_fall_in_their_hundred() {
        let class = |status| StatusClass::of(status).name();
        assert_eq!([class(101), class(200), class(299), class(304), class(429)], ["1xx", "2xx", "2xx", "3xx", "4xx"]);
        assert_eq!([class(503), class(0), class(600)], ["5xx", "5xx", "5xx"]);
    }
}
