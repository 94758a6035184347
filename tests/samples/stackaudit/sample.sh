curl -X POST https://api.stackaudit.ai/v1/auth/signup \
  -H "Content-Type: application/json" \
  -d '{
    "email": "user@example.com",
    "password": "securepassword123",
    "name": "John Doe",
    "organizationName": "Acme Corp"
  }'

curl -X POST https://api.stackaudit.ai/v1/auth/login \
  -H "Content-Type: application/json" \
  -d '{
    "email": "user@example.com",
    "password": "securepassword123"
  }'

curl https://api.stackaudit.ai/v1/audits \
  -H "Authorization: Bearer eyJhbGciOiJIUzI1NiIs..."

curl https://api.stackaudit.ai/v1/auth/me \
  -H "Authorization: Bearer YOUR_TOKEN"

curl -X POST https://api.stackaudit.ai/v1/auth/refresh \
  -H "Authorization: Bearer YOUR_TOKEN"

curl -X POST https://api.stackaudit.ai/v1/auth/change-password \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "currentPassword": "oldpassword123",
    "newPassword": "newsecurepassword456"
  }'

curl https://api.stackaudit.ai/v1/organizations/api-keys \
  -H "Authorization: Bearer YOUR_TOKEN"

curl -X POST https://api.stackaudit.ai/v1/organizations/api-keys \
  -H "Authorization: Bearer YOUR_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"name": "Production API"}'

curl -X POST https://api.stackaudit.ai/v1/auth/logout \
  -H "Authorization: Bearer YOUR_TOKEN"
