// A certified OpenID provider with the clients that its one argument names: {issuer, port, clients, subjects}. It prints
// a line when it listens. Access tokens are opaque and can be revoked; for a resource they are JWTs. Token exchange is not
// part of the provider: the grant below takes JWTs that a key of subjects signed.
import { createLocalJWKSet, jwtVerify } from 'jose'
import Provider, { errors } from 'oidc-provider'

const { issuer, port, clients, subjects } = JSON.parse(process.argv[2])
const life = 600

const provider = new Provider(issuer, {
  clients,
  scopes: ['models.use', 'models.list'],
  ttl: { ClientCredentials: life },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: () => ({ scope: 'models.use', accessTokenTTL: life, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
})

provider.registerGrantType('urn:ietf:params:oauth:grant-type:token-exchange', async (ctx) => {
  const { client, params } = ctx.oidc
  let subject
  try {
    subject = await jwtVerify(params.subject_token, createLocalJWKSet(subjects), { audience: issuer })
  } catch {
    throw new errors.InvalidGrant('the subject token is not good')
  }
  if (params.subject_token_type !== 'urn:ietf:params:oauth:token-type:jwt') throw new errors.InvalidRequest('another type')
  const token = new provider.ClientCredentials({ client, scope: params.scope, extra: { sub: subject.payload.sub } })
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    token_type: 'Bearer',
    expires_in: life,
    scope: params.scope,
  }
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'scope'])

provider.on('server_error', (_, err) => console.error(err))
provider.listen(port, '127.0.0.1', () => console.log('ready'))
