// A stand-in for the product's SDK: it sends what the page's methods say, and nothing else.

class AuthAPI {
  constructor(apiKey) {
    this.origin = process.env.SAMPLE_ORIGIN;
    this.headers = { Authorization: `Bearer ${apiKey}`, 'Content-Type': 'application/json' };
  }

  register(account) {
    return this.send('POST', '/v1/auth/register', account);
  }

  login(credentials) {
    return this.send('POST', '/v1/auth/login', credentials);
  }

  get_profile() {
    return this.send('GET', '/v1/auth/profile');
  }

  async send(method, path, body) {
    const response = await fetch(this.origin + path, { method, headers: this.headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) {
      throw new Error(`${method} ${path}: ${response.status} ${text}`);
    }
    return JSON.parse(text);
  }
}

module.exports = { AuthAPI };
