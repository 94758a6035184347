// Login
const loginResponse = await fetch('https://api.vantageai.com/api/v1/auth/login', {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({
    email: 'user@example.com',
    password: 'secure_password'
  })
});

const { access_token } = await loginResponse.json();

// Make authenticated requests
const response = await fetch('https://api.vantageai.com/api/v1/posts', {
  headers: { 'Authorization': `Bearer ${access_token}` }
});
