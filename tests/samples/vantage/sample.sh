# Login
curl -X POST https://api.vantageai.com/api/v1/auth/login \
  -H "Content-Type: application/json" \
  -d '{"email": "user@example.com", "password": "secure_password"}'

# Use token
curl -H "Authorization: Bearer <your_token>" \
  https://api.vantageai.com/api/v1/posts
